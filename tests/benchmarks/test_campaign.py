"""The campaign finds what it is for, says how to repeat it, and finds nothing here."""

import json
import os
import random
import time

import pytest

from miras_jax.benchmarks import campaign
from miras_jax.benchmarks.attacks import mutate, processes, readers, worker
from miras_jax.errors import UserError


def misbehave(pipe, root):
  """A reader with every fault there is."""
  pipe.send("ready")
  while True:
    kind, _ = pipe.recv()
    if kind == "hang":
      time.sleep(60)
    if kind == "memory":
      filled = bytearray(b"x" * (1 << 29))
      time.sleep(60)
      del filled
    if kind == "died":
      os.abort()
    pipe.send(("read", ""))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
  root = tmp_path_factory.mktemp("bad")
  found = worker.Worker(root, serve=misbehave, limit_s=3, limit_bytes=1 << 29)
  yield found
  found.close()


@pytest.mark.parametrize("fault", ["hang", "memory", "died"])
def test_fault_of_a_reader_is_told_and_the_next_attempt_runs(bad, fault):
  assert bad.attempt(fault, 0)[0] == fault
  assert bad.attempt("none", 0)[0] == "read"


def test_same_seed_does_the_same_harm():
  harm = [mutate.harm_bytes(b"abcdef" * 50, random.Random(3)) for _ in range(2)]
  assert harm[0] == harm[1] != b"abcdef" * 50
  tree = [mutate.harm_json(readers.RECORDS, random.Random(3)) for _ in range(2)]
  assert json.dumps(tree[0]) == json.dumps(tree[1]) != json.dumps(readers.RECORDS)


def test_an_attempt_depends_on_its_number_alone(tmp_path):
  class Echo:
    def attempt(self, kind, seed):
      return kind, seed

  first = [campaign.attempt(1, n, None, Echo(), tmp_path) for n in range(20)]
  again = [campaign.attempt(1, n, None, Echo(), tmp_path) for n in reversed(range(20))]
  assert first == again[::-1]
  assert {kind for kind, *_ in first} <= set(campaign.KINDS)


def test_every_kind_is_an_attack():
  assert set(campaign.READERS) == set(readers.ATTACKS)
  assert set(campaign.PROCESSES) == set(processes.ATTACKS)


@pytest.mark.parametrize("name", campaign.READERS)
def test_reader_without_harm_is_read(name, tmp_path, monkeypatch):
  """Otherwise a kind could be refused for a mistake in its own files."""
  monkeypatch.setattr(mutate, "harm_bytes", lambda data, rng, times=3: data)
  monkeypatch.setattr(mutate, "harm_json", lambda document, rng, times=3: document)
  monkeypatch.setattr(mutate, "value", lambda rng, before=None: before)

  class Mild(random.Random):
    def random(self):
      return 0.9

  outcome = readers.attempt(name, tmp_path, Mild(0))
  fine = (
    ("read", "refused") if name in ("config_option", "cache", "polygon") else "read"
  )
  assert outcome in fine


def test_what_is_no_sentence_is_a_failure(tmp_path, monkeypatch):
  def fails(folder, rng):
    raise UserError(" ")

  monkeypatch.setitem(readers.ATTACKS, "image", fails)
  with pytest.raises(AssertionError):
    readers.attempt("image", tmp_path, random.Random(0))


@pytest.mark.parametrize(
  "status, text, found",
  [
    (0, "done", None),
    (None, "compiling", "hang"),
    (0, "Traceback (most recent call last)", "traceback"),
    (1, "oh", "status 1"),
    (-11, "", "status -11"),
  ],
)
def test_how_a_command_ended_is_judged(status, text, found):
  complaint = processes.complaint(status, text)
  assert complaint is None if found is None else complaint.startswith(found)


def test_failure_comes_with_the_option_that_repeats_it(monkeypatch, capsys):
  class Fails:
    def __init__(self, root):
      pass

    def attempt(self, kind, seed):
      return "crash", "KeyError: 5"

    def close(self):
      pass

  monkeypatch.setattr(worker, "Worker", Fails)
  assert campaign.main(["--seed=3", "--attempt=417", "--only=image"]) == 1
  shown = capsys.readouterr().out
  assert "image: crash: KeyError: 5" in shown
  assert "miras bench campaign --seed=3 --only='image' --attempt=417" in shown


@pytest.mark.slow
def test_twelve_seconds_of_it_find_nothing(capsys):
  assert campaign.main(["--minutes=0.2", "--seed=5"]) == 0, capsys.readouterr().out


def test_a_campaign_that_is_cut_short_keeps_what_it_found(monkeypatch, capsys):
  found = iter([("image", "read", ""), ("torch", "hang", "more than\n20 s")])

  def attempt(*_):
    try:
      return next(found)
    except StopIteration:
      raise KeyboardInterrupt from None

  monkeypatch.setattr(campaign, "attempt", attempt)
  with pytest.raises(KeyboardInterrupt):
    campaign.main(["--minutes=1", "--seed=5"])
  shown = capsys.readouterr().out
  assert "torch: hang: more than 20 s" in shown
  assert "miras bench campaign --seed=5 --attempt=1" in shown
  assert [line.split()[0] for line in shown.splitlines()[-2:]] == ["image", "torch"]


def test_waiting_for_a_busy_machine_is_no_hang(monkeypatch):
  clock = iter(range(100))
  monkeypatch.setattr(processes.busy, "waited_s", lambda pid: next(clock))
  process = processes.start("timeit", "-n1", "-r1", "import time; time.sleep(2.5)")
  status, _ = processes.finish(process, limit=1)
  assert status == 0


def test_a_process_that_only_sleeps_hangs():
  process = processes.start("timeit", "-n1", "-r1", "import time; time.sleep(60)")
  status, _ = processes.finish(process, limit=1)
  assert status is None
