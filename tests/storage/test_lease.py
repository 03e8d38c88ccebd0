"""Who may write into a bucket's folder: one process, never one that was replaced."""

import json
import os
import subprocess
import threading
import time

import pytest

from miras_jax.errors import UserError
from miras_jax.storage import lease

SHORT = 0.4  # seconds of a lease


class Object:
  """An object in memory, with a bucket's conditions."""

  def __init__(self):
    self.data, self.generation, self.last = None, 0, 0
    self.guard = threading.Lock()

  def read(self):
    return self.data, self.generation

  def write(self, data, generation):
    with self.guard:
      if generation != self.generation:
        raise lease.Changed
      self.last += 1
      self.data, self.generation = data, self.last
      return self.last

  def remove(self, generation):
    with self.guard:
      if generation != self.generation:
        raise lease.Changed
      self.data, self.generation = None, 0


@pytest.fixture
def place(monkeypatch):
  monkeypatch.setattr(lease, "SETTLE_S", 0.0)
  return Object()


def take(place, command="miras train", **options):
  made = lease.Lease(
    "gs://b/run", command, make=lambda _: place, seconds=SHORT, **options
  )
  made.acquire()
  return made


def fall_silent(holder):
  """What a frozen machine does: it neither renews nor ends."""
  holder._stop.set()


def elsewhere(place):
  """The lease as another machine wrote it, whose processes nobody sees here."""
  who = json.loads(place.data) | {"machine": "another"}
  place.data = json.dumps(who).encode()


def test_a_second_writer_learns_who_holds_the_folder(place):
  first = take(place)
  with pytest.raises(UserError, match=r"gs://b/run is in use by `miras train` \(proc"):
    take(place)
  first.release()


def test_what_was_released_is_free_and_leaves_nothing(place):
  take(place).release()
  assert place.data is None
  take(place, "another").release()


def test_a_silent_lease_is_taken_over_after_its_time_and_not_before(place):
  first = take(place)
  fall_silent(first)
  elsewhere(place)
  start = time.monotonic()
  second = take(place, "the next")
  assert time.monotonic() - start >= SHORT
  second.release()


def test_a_zombie_ends_with_one_line_and_writes_nothing(place):
  ended = []
  zombie = take(place, end=ended.append)
  fall_silent(zombie)
  elsewhere(place)
  second = take(place, "the next")
  zombie._renewed = 0.0
  with pytest.raises(lease.Lost, match="taken over by `the next`"):
    zombie.check()
  zombie._stop.clear()
  zombie._keep()
  assert len(ended) == 1 and "\n" not in str(ended[0])
  assert json.loads(place.data)["command"] == "the next"
  second.release()


def test_a_zombie_that_ends_leaves_the_lease_of_the_next(place):
  zombie = take(place)
  fall_silent(zombie)
  elsewhere(place)
  second = take(place, "the next")
  zombie.release()
  assert json.loads(place.data)["command"] == "the next"
  second.release()


def test_of_many_that_come_at_once_one_gets_it(place):
  got, refused = [], []

  def come():
    try:
      got.append(take(place))
    except UserError:
      refused.append(1)

  threads = [threading.Thread(target=come) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(got) == 1 and len(refused) == 7
  got[0].release()


def test_a_process_that_was_killed_here_is_replaced_at_once(place):
  dead = subprocess.Popen(["sleep", "0"])
  dead.wait()
  first = take(place)
  fall_silent(first)
  who = json.loads(place.data) | {"pid": dead.pid, "seconds": 600}
  place.data = json.dumps(who).encode()
  start = time.monotonic()
  take(place).release()
  assert time.monotonic() - start < 60


def test_a_process_that_got_the_number_of_the_dead_is_not_the_holder():
  who = lease._here()
  assert not lease._is_dead(who)
  assert lease._is_dead(who | {"started": "1"})
  assert not lease._is_dead(who | {"started": "1", "machine": "another"})
  assert who["pid"] == os.getpid()


@pytest.mark.parametrize(
  "content",
  [b"\xff{", b'{"seconds": NaN}', b'{"seconds": 1' + b"0" * 400 + b"}", b"[" * 10**5],
  ids=["no text", "no number", "no float", "no end"],
)
def test_a_damaged_lease_is_waited_for_and_replaced(place, monkeypatch, content):
  monkeypatch.setattr(lease, "SECONDS", SHORT)
  place.write(content, 0)
  take(place).release()
