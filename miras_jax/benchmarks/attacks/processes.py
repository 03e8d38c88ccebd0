"""Commands that are killed at random moments, and two at once in one folder.

Each attack returns None, or what went wrong.
"""

import json
import pathlib
import signal
import subprocess
import sys
import time

LIMIT_S = 240  # of a command: starting jax and compiling take most of it
WAIT_S = 20  # after a signal
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
SYNTH = ("miras_jax.data", "synth", "--conversations=30", "--seed=1")
TOY = ("miras_jax.benchmarks.toy_run", "--steps=12", "--every=2")


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
  """(exit status, output); the status is None when it had to be killed."""
  try:
    text, _ = process.communicate(timeout=limit)
    return process.returncode, text
  except subprocess.TimeoutExpired:
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


def attack_two_at_once(folder, rng, command, whole):
  """Two in one folder: each ends, one with success, and the folder is whole."""
  first = start(*command)
  time.sleep(rng.random() * 3)
  second = start(*command)
  ends = [finish(process) for process in (first, second)]
  for status, text in ends:
    if problem := complaint(status, text, fine=(0, 1)):
      return problem
  if all(status for status, _ in ends):
    return f"both failed: {ends[0][1][-200:]}"
  return complaint(*finish(start(*command))) or whole(folder)


def attack_signal(folder, rng, command, whole):
  """A signal at a random moment, then the command again: it ends and is whole."""
  number, moment = rng.choice(SIGNALS), rng.random() * 8
  victim = start(*command)
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
  return complaint(*finish(start(*command))) or whole(folder)


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


def _attack(how, command, whole):
  return lambda folder, rng: how(folder, rng, command(folder), whole)


ATTACKS = {
  "two synth": _attack(attack_two_at_once, _synth, _whole_synth),
  "two train": _attack(attack_two_at_once, _toy, _whole_toy),
  "signal synth": _attack(attack_signal, _synth, _whole_synth),
  "signal train": _attack(attack_signal, _toy, _whole_toy),
}


def attempt(name, folder, rng) -> tuple[str, str]:
  """("survived", "") or ("lost", what went wrong)."""
  pathlib.Path(folder).mkdir(parents=True)
  try:
    problem = ATTACKS[name](folder, rng)
  except (OSError, ValueError, KeyError) as error:  # the folder is not what it should
    problem = f"{type(error).__name__}: {error}"
  return ("lost", problem) if problem else ("survived", "")
