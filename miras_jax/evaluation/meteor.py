"""METEOR 1.5 of answers, by its own program: Java, and the jar of pycocoevalcap.

The program reads its paraphrases when it starts, which takes some seconds. N answers.
"""

import contextlib
import importlib.util
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Sequence

import numpy as np

JAR = "meteor-1.5.jar"
_LONGEST_S = 900  # of all the work: what takes longer is ended
_MOST_LETTERS = 10_000  # of a text


def missing() -> str:
  """Why there is no METEOR here, or ""."""
  if not shutil.which("java"):
    return "no Java"
  if not _jar():
    return "no pycocoevalcap, which brings METEOR's program"
  return ""


def _jar():
  """Path of the program, or None."""
  spec = importlib.util.find_spec("pycocoevalcap")
  folders = spec.submodule_search_locations or () if spec else ()
  jars = [pathlib.Path(folder) / "meteor" / JAR for folder in folders]
  return next((jar for jar in jars if jar.is_file()), None)


def _command():
  """(how the program is started, in which folder)."""
  jar = _jar()
  options = ["-", "-", "-stdio", "-l", "en", "-norm"]
  return ["java", "-Xmx2G", "-XX:+UseSerialGC", "-jar", str(jar), *options], jar.parent


class Meteor:
  """The program as it runs; a context. OSError or ValueError where it does not."""

  def __enter__(self):
    command, folder = _command()
    self._process = subprocess.Popen(
      command,
      cwd=folder,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      encoding="utf-8",
    )
    self._timer = threading.Timer(_LONGEST_S, self._process.kill)
    self._timer.daemon = True
    self._timer.start()
    return self

  def __exit__(self, *error):
    self._timer.cancel()
    self._process.kill()
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()

  def counts(self, answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What the score is made of, for each pair of texts: (N, 23); they add up."""
    known = {}
    for pair in zip(answers, references, strict=True):
      if pair not in known:
        answer, reference = map(_one_line, pair)
        self._write(f"SCORE ||| {reference} ||| {answer}")
        known[pair] = self._read()
    pairs = zip(answers, references, strict=True)
    return np.array([known[pair] for pair in pairs], float)

  def scores(self, counts_NS) -> np.ndarray:
    """The score of each row of counts, also of sums of them: (N,) of 0 to 1."""
    rows = [" ".join(map(str, row)) for row in np.asarray(counts_NS, float).tolist()]
    self._write(" ||| ".join(["EVAL", *rows]))
    found = [self._read()[0] for _ in rows]
    self._read()  # of all of them together
    return np.array(found)

  def _write(self, line):
    self._process.stdin.write(line + "\n")
    self._process.stdin.flush()

  def _read(self):
    """The numbers of a line of the program."""
    line = self._process.stdout.readline()
    if not line:
      raise ValueError("METEOR's program ended before it was done")
    return [float(x) for x in line.split()]


def _one_line(text):
  """A text without what the program takes for its own signs."""
  return " ".join(text[:_MOST_LETTERS].replace("|||", " ").split())
