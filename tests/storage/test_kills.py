"""A run in a bucket that is killed, shut out, or left by its bucket.

MIRAS_TEST_KILLS and MIRAS_TEST_STEPS make the first test longer: 5 and 200 are what is
promised.
"""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from miras_jax.checkpoint import reading, workdir
from miras_jax.training.meters import TIMINGS
from tests.storage.conftest import ROOT, Server

KILLS = int(os.environ.get("MIRAS_TEST_KILLS", "1"))
STEPS = int(os.environ.get("MIRAS_TEST_STEPS", "20"))
# One device: what is tested is the bucket.
FLAGS = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]


def start(place, *more, **variables):
  words = ["-m", "miras_jax.benchmarks.toy_run", f"--workdir={place}", *more]
  return subprocess.Popen(
    [sys.executable, *words],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": " ".join(FLAGS)} | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(place, *more, **variables):
  """(exit status, what it printed) of a run."""
  process = start(place, *more, **variables)
  text = process.communicate(timeout=240)[0]
  return process.returncode, text


def rows(folder):
  """The curve of a run, without what differs between equal runs."""
  lines = folder.metrics.read_text().splitlines()
  return [{k: v for k, v in json.loads(x).items() if k not in TIMINGS} for x in lines]


def wait_for_step(process, folder, step):
  """Returns once the bucket has a step of at least that number."""
  while process.poll() is None and max(folder.steps(), default=0) < step:
    time.sleep(0.05)


@pytest.mark.slow
def test_the_curve_of_a_killed_run_is_that_of_an_undisturbed_one(bucket, tmp_path):
  options = (f"--steps={STEPS}", "--every=5", "--keep=2", "--slow=0.05")
  chance = random.Random(0)
  folder = workdir.Workdir(bucket)
  for kill in range(KILLS):
    process = start(bucket, *options)
    wait_for_step(process, folder, 5 + kill * STEPS // (KILLS + 1))
    time.sleep(chance.uniform(0, 0.6))
    process.kill()
    process.communicate()
    for step in folder.steps():  # whatever is visible is whole
      reading.verify(folder.step(step))
  status, text = finish(bucket, *options)
  assert status == 0 and "resumed" in text, text
  status, text = finish(tmp_path / "local", *options)
  assert status == 0, text
  folder.pull()
  undisturbed = workdir.Workdir(tmp_path / "local")
  assert rows(folder) == rows(undisturbed) and len(rows(folder)) == STEPS
  leaves = [reading.read_table(f.step(STEPS)) for f in (folder, undisturbed)]
  assert leaves[0] == leaves[1]
  assert folder.incomplete_steps() == [] and len(folder.steps()) == 2
  assert not (folder.path / ".lock").exists()


@pytest.mark.slow
def test_a_bucket_that_goes_away_in_mid_run_ends_it_in_one_line(bucket, tmp_path):
  own = Server(tmp_path / "own")
  options = ("--steps=400", "--every=5", "--slow=0.05")
  process = start(bucket, *options, **own.variables(), MIRAS_BUCKET_LIMIT_S="4")
  while process.poll() is None and "checkpoints/5/commit_success" not in own.state():
    time.sleep(0.1)
  own.kill()
  text = process.communicate(timeout=120)[0]
  errors = [line for line in text.splitlines() if line.startswith("error: ")]
  assert process.returncode == 1 and len(errors) == 1, text
  assert "the bucket does not answer" in errors[0]
  assert "run the same command again" in errors[0] and "Traceback" not in text
  again = Server(tmp_path / "own", own.port)
  status, text = finish(bucket, "--steps=60", "--every=5", **again.variables())
  again.kill()
  assert status == 0 and "resumed" in text, text


@pytest.mark.slow
@pytest.mark.parametrize(
  "place, words",
  [
    ("gs://forbidden/run", "no permission"),
    ("gs://nowhere/run", "no such bucket"),
    ("s3://b/run", "mount the bucket"),
  ],
)
def test_a_bucket_that_cannot_be_used_is_one_line(bucket, place, words):
  status, text = finish(place)
  assert status == 1 and words in text and "Traceback" not in text
  assert sum(line.startswith("error: ") for line in text.splitlines()) == 1
