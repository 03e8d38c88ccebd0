"""How long rows have to be, and which conversations share one: found once a run.

The first process counts and writes WORKDIR/sizes/; the others map what it wrote, and so
does every later start of the run, which takes the same time and memory for any number
of records.
"""

import hashlib
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np

from input_pipeline import packing
from input_pipeline.compact import LazySequence, Rows, Sizes
from input_pipeline.mixture import Mixture
from input_pipeline.source import Source
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.parallel import distributed

UNLIMITED = 1 << 20
# Rows are as long as the longest conversation, rounded up to this.
LENGTH_MULTIPLE = 8
PACKED_WHOLE = 0.8  # of the packed rows fit as they are
# A conversation this many times as long as nearly all others does not set the length.
OUTLIER, NEARLY_ALL = 4, 0.99
DEFECTIVE = 0.1  # a share of records past this is said at the start


class Kept(NamedTuple):
  """Arrays by what they depend on, in a folder; without one they are made each time."""

  folder: pathlib.Path | None
  key: tuple

  def array(self, name: tuple, count: int | None, make) -> np.ndarray:
    """`make()`, or what an earlier call with the same name made, mapped.

    count: the number of rows that it must have; None: any.
    """
    if self.folder is None:
      return make()
    key = json.dumps([*self.key, *name])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = self.folder / "sizes" / f"{digest}.npy"
    if distributed.is_first() and _read(path, count) is None:
      _write(path, make())
    distributed.barrier("sizes")
    array = _read(path, count)
    # Another host may not see the folder: it counts for itself.
    return make() if array is None else array


class Measured(NamedTuple):
  """A source and the Size of each of its records; None for one that is defective."""

  source: Source
  sizes: Sizes
  kept: Kept

  def grouped(self, source: Source, sizes: Sizes, **limits) -> Rows:
    """`packing.group` of this source, or of a part of this mixture."""

    def make():
      rows = packing.group(source.image_ids, sizes, **limits)
      return np.concatenate([rows.members.astype(np.int64), rows.ends])

    name = ("rows", source.fingerprint(), limits)
    both = self.kept.array(name, None, make)
    return Rows(both[: len(sizes)], both[len(sizes) :])


def measure(source: Source, tokenizer, options: dict, folder=None) -> Measured:
  """Counts the tokens of every record. Raises UserError when all are defective.

  options: `DataConfig.text_options()`. folder: of a run that keeps what was counted.
  """
  if isinstance(source, Mixture):
    return _measure_mixture(source, tokenizer, options, folder)
  key = (source.fingerprint(), tokenizer.fingerprint(), options)
  kept = Kept(folder and pathlib.Path(folder), key)

  def make():
    return Sizes.of(source.sizes(tokenizer, options)).array

  sizes = Sizes(kept.array(("sizes",), source.num_records(), make))
  _tell_defects(source, sizes)
  return Measured(source, sizes, kept)


def _measure_mixture(source, tokenizer, options, folder):
  """Of each part on its own, so that other weights and parts count nothing again."""
  parts = [measure(part, tokenizer, options, folder) for part in source.sources]
  prints = [part.fingerprint() for part in source.sources]
  key = (prints, tokenizer.fingerprint(), options)
  kept = Kept(folder and pathlib.Path(folder), key)

  def make():
    return np.concatenate([part.sizes.array for part in parts])

  return Measured(
    source, Sizes(kept.array(("sizes",), source.num_records(), make)), kept
  )


def room(parts, pack: int, max_masks: int) -> int:
  """Tokens a row needs, rounded up.

  One conversation a row: those of the longest, or of the longest that is no outlier.
  Packed: at least those, and enough for PACKED_WHOLE of the rows; the others are cut in
  two, cheaper than padding all rows.
  """
  limits = {"limit": pack, "max_len": UNLIMITED, "max_masks": max_masks}
  needed = 1
  for part in parts:
    if pack == 1:
      needed = max(needed, _longest(np.sort(part.sizes.lengths)))
    else:
      lengths = part.grouped(part.source, part.sizes, **limits).lengths(part.sizes)
      needed = max(needed, lengths[math.ceil(PACKED_WHOLE * len(lengths)) - 1])
  return -(-int(needed) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def of_one_round(measured: Measured) -> np.ndarray:
  """Whether each record is a sound one of one question and its answer."""
  source = measured.source

  def make():
    rounds = (said is not None and len(said.turns) == 2 for said in source.dialogues())
    return np.fromiter(rounds, bool, source.num_records())

  short = measured.kept.array(("one round",), source.num_records(), make)
  return short & (measured.sizes.array[:, 0] >= 0)


def row_of(measured: Measured, only, pack: int, max_masks: int) -> tuple[int, int]:
  """(tokens, masks) that rows of some of the records need, as `room` counts them."""
  kept = np.flatnonzero(only)
  some = Sizes(np.asarray(measured.sizes.array)[kept])
  image_ids = LazySequence(len(kept), lambda i: measured.source.image_ids[int(kept[i])])
  limits = {"limit": pack, "max_len": UNLIMITED, "max_masks": max_masks}
  rows = packing.group(image_ids, some, **limits)
  lengths = rows.lengths(some)
  tokens = lengths[math.ceil(PACKED_WHOLE * len(lengths)) - 1] if pack > 1 else 0
  tokens = max(int(tokens), int(_longest(np.sort(some.lengths))))
  masks = np.add.reduceat(some.array[rows.members, 2], rows.ends - rows.counts())
  return -(-tokens // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max(int(masks.max()), 1)


def tell_cut(parts, length: int) -> None:
  """Says how many conversations do not fit a row of `length` tokens."""
  for part in parts:
    lengths = part.sizes.lengths
    if long := int((lengths > length).sum()):
      log.warning(
        "%s: %d of %d conversations are longer than a row of %d tokens (the longest"
        " has %d) and lose their oldest rounds, or all; --config.data.max_len=N sets"
        " the row", part.source.file, long, len(lengths), length, lengths.max(),
      )  # fmt: skip


def without_masks(source: Source, sizes: Sizes) -> LazySequence:
  """For each example of a source, packed or not, whether it surely has no mask.

  sizes: of its records.
  """

  def of(i):
    found = (sizes[record] for record in source.members(i))
    return not any(size and size.segs for size in found)

  return LazySequence(len(source), of)


def share_without_masks(measured: Measured) -> float:
  """How often a record that is drawn is a sound one without a mask."""
  source, without = measured.source, measured.sizes.array[:, 2] == 0
  if not isinstance(source, Mixture):
    return float(without.mean())
  shares = [part.mean() for part in source.cut(without)]
  return float(np.average(shares, weights=source.weights))


def _longest(lengths):
  """The last of ascending lengths that is no outlier."""
  usual = lengths[math.ceil(NEARLY_ALL * len(lengths)) - 1]
  return lengths[lengths <= OUTLIER * usual][-1]


def _tell_defects(source, sizes):
  defects = len(sizes) - len(sizes.lengths)
  if defects == len(sizes):
    raise UserError(
      f"{source.file}: all {len(sizes)} records are defective; `miras data check` names"
      " what is wrong with each"
    )
  if defects > DEFECTIVE * len(sizes):
    log.warning(
      "%s: %d of %d records are defective and train with weight zero; `miras data"
      " check` names what is wrong with each", source.file, defects, len(sizes),
    )  # fmt: skip


def _write(path, array):
  """The whole array or none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  half = path.with_suffix(".tmp")
  with open(half, "wb") as file:
    np.save(file, array)
  half.rename(path)


def _read(path, count):
  """The mapped array of a file, or None where it is not there or not whole."""
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError):
    return None
  return array if count is None or len(array) == count else None
