"""Commands that are killed at random moments, and two at once in one folder.

Each attack returns None, or what went wrong.
"""

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from input_pipeline import feature_cache
from miras_jax.benchmarks.attacks import busy
from miras_jax.errors import UserError

LIMIT_S = 240  # of a command: starting jax and compiling take most of it
WAIT_S = 20  # after a signal
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
SYNTH = ("miras_jax.data", "synth", "--conversations=30", "--seed=1")
TOY = ("miras_jax.benchmarks.toy_run", "--steps=12", "--every=2")
# What the second of two may say: who is at work, or that the first was done already.
REFUSALS = ("is in use by", "exists already")


class Case(NamedTuple):
  """A command under attack; each function takes the folder of the attempt.

  command(folder): the one that is run twice or killed. whole(folder): None, or what is
  wrong with the result. prepare(folder): commands that make what it reads. again: what
  must succeed afterwards; by default the same command.
  """

  command: Callable
  whole: Callable
  prepare: Callable = lambda folder: ()
  again: Callable | None = None

  def afterwards(self, folder):
    """What is wrong once the command, or `again`, had the folder for itself."""
    command = (self.again or self.command)(folder)
    return complaint(*finish(start(*command))) or self.whole(folder)


def start(module, *argv):
  """A command of ours with its output in pipes."""
  return subprocess.Popen(
    [sys.executable, "-m", module, *argv],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
  )


def finish(process, limit=LIMIT_S) -> tuple[int | None, str]:
  """(exit status, output); the status is None when it had to be killed.

  What it waits for a CPU that others have is no fault of its own: that is added to the
  limit.
  """
  start, waited = time.monotonic(), busy.waited_s(process.pid)
  while True:
    try:
      text, _ = process.communicate(timeout=1)
      return process.returncode, text
    except subprocess.TimeoutExpired:
      own_s = time.monotonic() - start - (busy.waited_s(process.pid) - waited)
      if own_s > limit:
        process.kill()
        return None, process.communicate()[0]


def complaint(status, text, fine=(0,)) -> str | None:
  """What is wrong with how a command ended."""
  if status is None:
    return f"hang: {text[-200:]}"
  if "Traceback" in text or "Exception ignored" in text:
    return f"traceback: {text[-400:]}"
  if status not in fine:
    return f"status {status}: {text[-300:]}"
  if status == 1 and "error:" not in text:
    return f"status 1 without a word: {text[-200:]}"
  return None


def attack_two_at_once(folder, rng, case):
  """Two in one folder: each ends, one with success, and the folder is whole."""
  first = start(*case.command(folder))
  time.sleep(rng.random() * 3)
  second = start(*case.command(folder))
  ends = [finish(process) for process in (first, second)]
  for status, text in ends:
    if problem := complaint(status, text, fine=(0, 1)):
      return problem
    if status == 1 and not any(words in text for words in REFUSALS):
      return f"refused, but not for the other one: {text[-300:]}"
  if all(status for status, _ in ends):
    return f"both failed: {ends[0][1][-200:]}"
  return case.afterwards(folder)


def attack_signal(folder, rng, case):
  """A signal at a random moment, then the command again: it ends and is whole."""
  number, moment = rng.choice(SIGNALS), rng.random() * 8
  victim = start(*case.command(folder))
  try:
    victim.wait(moment)
  except subprocess.TimeoutExpired:
    victim.send_signal(number)
  status, text = finish(victim, WAIT_S)
  fine = (0, 1, 130, *(-n for n in SIGNALS), *(128 + n for n in SIGNALS))
  if status is None or number != signal.SIGKILL:
    if problem := complaint(status, text, (*fine, 1)):
      # A command that was asked to stop before it began may end without a word.
      if "without a word" not in problem:
        return f"{signal.Signals(number).name} after {moment:.1f} s: {problem}"
  return case.afterwards(folder)


def _synth(folder):
  return (*SYNTH, f"--out={folder / 'data'}")


def _toy(folder):
  return (*TOY, f"--workdir={folder / 'run'}")


def _whole_synth(folder):
  root = folder / "data"
  for split in ("train", "val", "test"):
    for record in json.loads((root / f"{split}.json").read_text()):
      if not (root / "images" / record["img_id"]).stat().st_size:
        return f"{record['img_id']} is empty"
  return None


def _whole_toy(folder):
  rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(row)["step"] for row in rows]
  return None if steps == list(range(1, 13)) else f"rows of the log: {steps}"


def _parts(folder):
  return [("miras_jax.convert", "--stand-in=tiny", f"--dst={folder / 'parts'}")]


def _convert(folder, dst="converted"):
  names = ("vicuna", "clip", "convnext", "sam.pth")
  sources = ",".join(str(folder / "parts" / name) for name in names)
  new = "--new=projector,mining,seg_prompt"
  return ("miras_jax.convert", f"--src={sources}", new, f"--dst={folder / dst}")


def _whole_converted(folder):
  """Read back, and equal to what one writes that was never disturbed."""
  both = f"--compare={folder / 'converted'},{folder / 'alone'}"
  if left := sorted(path.name for path in folder.glob(".*.partial")):
    return f"left behind: {left}"
  return complaint(*finish(start("miras_jax.convert", both)))


def _photographs(folder):
  return [("miras_jax.data", "synth", "--conversations=12", f"--out={folder / 'data'}")]


def _cache(folder):
  return (
    "miras_jax.data", "cache", "--config=miras_7b_stage2:size=tiny", "--part_size=1",
    "--config.allow_random=True", f"--config.data.dir={folder / 'data'}",
    "--config.mixture=none",
    f"--out={folder / 'cache'}",
  )  # fmt: skip


def _whole_cache(folder):
  cache = feature_cache.FeatureCache(folder / "cache")
  for split in ("train", "val"):
    for record in json.loads((folder / "data" / f"{split}.json").read_text()):
      name = record["img_id"]
      cache.views((folder / "data" / "images" / name).read_bytes(), name)
  return None


_DATA = Case(_synth, _whole_synth)
_RUN = Case(_toy, _whole_toy)
_WEIGHTS = Case(
  _convert, _whole_converted, _parts, again=lambda folder: _convert(folder, "alone")
)
_FEATURES = Case(_cache, _whole_cache, _photographs)
ATTACKS = {
  "two synth": (attack_two_at_once, _DATA),
  "two train": (attack_two_at_once, _RUN),
  "two convert": (attack_two_at_once, _WEIGHTS),
  "two cache": (attack_two_at_once, _FEATURES),
  "signal synth": (attack_signal, _DATA),
  "signal train": (attack_signal, _RUN),
}


def attempt(name, folder, rng) -> tuple[str, str]:
  """("survived", "") or ("lost", what went wrong)."""
  pathlib.Path(folder).mkdir(parents=True)
  attack, case = ATTACKS[name]
  try:
    ends = (complaint(*finish(start(*argv))) for argv in case.prepare(folder))
    problem = next(filter(None, ends), None) or attack(folder, rng, case)
  except (UserError, OSError, ValueError, KeyError) as error:  # not as it should be
    problem = f"{type(error).__name__}: {error}"
  return ("lost", problem) if problem else ("survived", "")
