"""What asks a run to save and end."""

import os
import signal

import pytest

from miras_jax.parallel import distributed


@pytest.fixture(autouse=True)
def heard():
  """A shell's background job ignores Ctrl-C; these tests send it all the same."""
  before = {n: signal.signal(n, signal.SIG_DFL) for n in distributed.SIGNALS}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize("number", distributed.SIGNALS)
def test_a_signal_stops_after_the_step_and_is_named(number):
  before = signal.getsignal(number)
  with distributed.StopSignal() as stop:
    assert not stop(1)
    os.kill(os.getpid(), number)
    assert stop(2) and stop.name == number.name
  assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
  with distributed.StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop(1)
    # Called, not sent: an interrupt may arrive inside a destructor, which swallows it.
    with pytest.raises(KeyboardInterrupt):
      signal.getsignal(signal.SIGINT)(signal.SIGINT, None)


def test_a_signal_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with distributed.StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop(1)
  finally:
    signal.signal(signal.SIGHUP, before)
