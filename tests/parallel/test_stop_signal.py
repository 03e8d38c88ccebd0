"""What asks a run to save and end."""

import hashlib
import logging
import os
import signal
import threading
import time

import pytest

from miras_jax.parallel import stop_signal


@pytest.fixture(autouse=True)
def heard():
  """A shell's background job ignores Ctrl-C; these tests send it all the same."""
  before = {n: signal.signal(n, signal.SIG_DFL) for n in stop_signal.SIGNALS}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("number", stop_signal.SIGNALS)
def test_a_signal_stops_after_the_step_and_is_named(number):
  before = signal.getsignal(number)
  with stop_signal.StopSignal() as stop:
    assert not stop(1)
    os.kill(os.getpid(), number)
    assert stop(2) and stop.name == number.name
  assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
  with stop_signal.StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop(1)
    # Called, not sent: an interrupt may arrive inside a destructor, which swallows it.
    with pytest.raises(KeyboardInterrupt):
      signal.getsignal(signal.SIGINT)(signal.SIGINT, None)


def test_a_signal_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with stop_signal.StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop(1)
  finally:
    signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_compile_is_answered_before_the_compile_ends(
  caplog, monkeypatch
):
  monkeypatch.setattr(logging.getLogger("miras_jax"), "propagate", True)
  with stop_signal.StopSignal() as stop, stop.during("the compile"):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGHUP)).start()
    # One call that lets no handler of Python's in, as a compile is.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)
    ended = time.time()
  assert stop.is_set() and caplog.records[0].created < ended
  assert caplog.messages == ["SIGHUP: stops after the compile; nothing new to save yet"]


def test_a_second_interrupt_ends_the_compile_too(monkeypatch):
  ended = []
  monkeypatch.setattr(os, "_exit", ended.append)
  with stop_signal.StopSignal() as stop, stop.during("the compile"):
    stop._say(signal.SIGINT)
    assert not ended
    stop._say(signal.SIGINT)
  assert ended == [130]


@pytest.mark.parametrize("number", stop_signal.SIGNALS)
def test_a_signal_before_the_loop_ends_the_run_with_its_name(number):
  before = signal.getsignal(number)
  with pytest.raises(stop_signal.Stopped, match=number.name):
    with stop_signal.ends_at_once():
      os.kill(os.getpid(), number)
      time.sleep(5)
  assert signal.getsignal(number) == before
