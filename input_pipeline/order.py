"""The order in which examples are drawn: functions of a place, the same on every host.

A mixture's place leads to (source, number in that source's own order), so that another
mixture may take over at any place: each source goes on where it was.
"""

import hashlib
import json
import logging
import sys
import zlib

import grain
import numpy as np

from input_pipeline.mixture import Mixture
from input_pipeline.source import Draw, Source
from miras_jax.errors import UserError


class Order:
  """Random access to the order: place -> example, for ever or once (then -1)."""

  def __init__(self, dataset: Source, *, seed: int, shuffle: bool, repeat: bool):
    is_mixed = isinstance(dataset, Mixture)
    sources = dataset.sources if is_mixed else (dataset,)
    self.names = dataset.names if is_mixed else ("",)
    self._weights = dataset.weights if is_mixed else (1.0,)
    self._settings = [seed if shuffle else None, repeat]
    self._repeat = repeat
    seeds = [seed + zlib.crc32(name.encode()) for name in self.names]
    seeds = seeds if is_mixed else [seed]
    self._parts = [
      _Part(len(source), seed=part_seed if shuffle else None)
      for source, part_seed in zip(sources, seeds, strict=True)
    ]
    sizes = [len(source) for source in sources]
    self._firsts = [sum(sizes[:k]) for k in range(len(sizes))]
    self._size = sum(sizes)
    self._draws = _draws(self._weights)
    # Examples of each source that earlier mixtures of the run drew.
    self._drawn = [0] * len(sources)
    self._left = {}  # name -> [hash, drawn] of sources that the run had and has no more
    self._hashes = [_hash(source.fingerprint()) for source in sources]
    self.fingerprint = _hash([dataset.fingerprint(), *self._settings])

  def __len__(self):
    return len(self._draws) if self._repeat else self._size

  def __getitem__(self, place):
    if self._repeat:
      k, i = self._draws[place]
      place = self._drawn[k] + i
      return Draw(self._firsts[k] + self._parts[k][place], self._parts[k].epoch(place))
    if place >= self._size:
      return -1
    # One pass has no proportions: every example once, source after source.
    k = int(np.searchsorted(self._firsts, place, "right")) - 1
    return self._firsts[k] + self._parts[k][place - self._firsts[k]]

  def get_state(self) -> dict:
    """What `set_state` wants beside the place, JSON-able."""
    if self.names == ("",):
      return {"order": self.fingerprint}
    drawn = zip(self.names, zip(self._hashes, self._drawn, strict=True), strict=True)
    return {
      "order": self.fingerprint,
      "mixture": {
        "weights": [list(pair) for pair in zip(self.names, self._weights, strict=True)],
        "drawn": self._left | {name: list(pair) for name, pair in drawn},
        "settings": self._settings,
      },
    }

  def set_state(self, state: dict, place: int) -> int:
    """Goes on where `get_state` was taken at `place`; returns the place to go on at.

    Another mixture begins at place 0, and what it shares with the old one goes on.
    Raises UserError when the data differ otherwise.
    """
    before = state.get("mixture")
    if state["order"] == self.fingerprint:
      if before:
        self._take_over(before["drawn"])
      return place
    ours = self.get_state().get("mixture")
    if not (before and ours) or before["settings"] != self._settings:
      raise UserError(
        "the checkpoint was made with another data set, seed or shuffle setting "
        f"(order {state['order']}, here {self.fingerprint}); restore those or "
        "start in a new workdir"
      )
    self._take_over(_drawn_at(before, place))
    _tell(before["weights"], ours["weights"])
    return 0

  def _take_over(self, drawn):
    """drawn: {name: [hash, number]}. UserError where a source became another."""
    drawn = dict(drawn)
    for k, name in enumerate(self.names):
      known, number = drawn.pop(name, [self._hashes[k], 0])
      if known != self._hashes[k]:
        raise UserError(
          f"{name} is another data set than when the checkpoint was made; put it"
          " back, give the new one another name, or start in a new workdir"
        )
      self._drawn[k] = int(number)
    self._left = drawn


def _draws(weights):
  """Random access: place -> (source, how many of it came before), for ever."""
  parts = [grain.MapDataset.source(_Numbers(k)) for k in range(len(weights))]
  if len(parts) == 1:
    return _Numbers(0)
  return grain.MapDataset.mix(parts, weights=weights)


def _drawn_at(mixture, place):
  """{name: [hash, examples drawn]} after `place` draws of the mixture of a state.

  The number that a source's next draw has is how many it had before.
  """
  names = [name for name, _ in mixture["weights"]]
  draws = _draws([weight for _, weight in mixture["weights"]])
  counts = {}
  while len(counts) < len(names):
    k, number = draws[place]
    counts.setdefault(names[k], number)
    place += 1
  return {
    name: [known, number + counts.get(name, 0)]
    for name, (known, number) in mixture["drawn"].items()
  }


def _tell(before, now):
  def text(weights):
    return ", ".join(f"{name} {weight:g}" for name, weight in weights)

  logging.getLogger("input_pipeline").warning(
    "the mixture changed: it was %s; from here on it is %s; each source goes on where"
    " it was", text(before), text(now),
  )  # fmt: skip


class _Numbers:
  """(source, 0), (source, 1), ... for ever."""

  def __init__(self, source):
    self._source = source

  def __len__(self):
    return sys.maxsize

  def __getitem__(self, i):
    return self._source, i


class _Part:
  """The order of one source: its example numbers for ever, shuffled every epoch."""

  def __init__(self, size, *, seed):
    self._size = size
    self._seed = seed
    self._epochs = {}  # two at most; replaced, never changed, because of threads

  def epoch(self, place):
    """How often each example was drawn before the pass that a place is in."""
    return place // self._size

  def __getitem__(self, place):
    epoch, i = divmod(place, self._size)
    if self._seed is None:
      return i
    order = self._epochs.get(epoch)
    if order is None:
      order = shuffled(self._size, seed=self._seed, epoch=epoch)
      beside = {e: o for e, o in self._epochs.items() if abs(e - epoch) == 1}
      self._epochs = beside | {epoch: order}
    return int(order[i])


def shuffled(size, *, seed, epoch):
  """A permutation of range(size) that depends on nothing but its arguments.

  Sorts by SplitMix64 of the index (Steele et al. 2014), so it is the same with every
  version of numpy, which random generators do not promise.
  """
  start = _mix64(_mix64(np.array([seed % 2**64], np.uint64)) ^ np.uint64(epoch))
  return np.argsort(_mix64(np.arange(size, dtype=np.uint64) ^ start))


def _mix64(x):
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _hash(value):
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
