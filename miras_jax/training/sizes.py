"""How long rows have to be: the tokens of every record, counted once a run.

The first process counts and writes WORKDIR/sizes/; the others read it, and so does
every later start of the run.
"""

import hashlib
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np

from input_pipeline import packing
from input_pipeline.mixture import Mixture
from input_pipeline.source import Size, Source
from miras_jax.checkpoint import workdir
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


class Measured(NamedTuple):
  """A source and the Size of each of its records; None for one that is defective."""

  source: Source
  sizes: tuple


def measure(source: Source, tokenizer, options: dict, folder=None) -> Measured:
  """Counts the tokens of every record. Raises UserError when all are defective.

  options: `DataConfig.text_options()`. folder: of a run that keeps what was counted.
  """
  if isinstance(source, Mixture):  # each on its own: another mixture counts no more
    parts = [measure(part, tokenizer, options, folder) for part in source.sources]
    return Measured(source, tuple(size for part in parts for size in part.sizes))
  if folder is None:
    sizes = source.sizes(tokenizer, options)
  else:
    sizes = _kept(source, tokenizer, options, pathlib.Path(folder))
  _tell_defects(source, sizes)
  return Measured(source, sizes)


def room(parts, pack: int, max_masks: int) -> int:
  """Tokens a row needs, rounded up.

  One conversation a row: those of the longest, or of the longest that is no outlier.
  Packed: at least those, and enough for PACKED_WHOLE of the rows; the others are cut in
  two, cheaper than padding all rows.
  """
  limits = {"limit": pack, "max_len": UNLIMITED, "max_masks": max_masks}
  needed = 1
  for source, sizes in parts:
    rows = packing.group(source.image_ids, sizes, **limits)
    lengths = packing.lengths(rows, sizes) or [1]
    if pack == 1:
      needed = max(needed, _longest(lengths))
    else:
      needed = max(needed, lengths[math.ceil(PACKED_WHOLE * len(lengths)) - 1])
  return -(-needed // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def tell_cut(parts, length: int) -> None:
  """Says how many conversations do not fit a row of `length` tokens."""
  for source, sizes in parts:
    lengths = [size.prefix + size.talk for size in sizes if size is not None]
    if long := [n for n in lengths if n > length]:
      log.warning(
        "%s: %d of %d conversations are longer than a row of %d tokens (the longest"
        " has %d) and lose their oldest rounds, or all; --config.data.max_len=N sets"
        " the row", source.file, len(long), len(lengths), length, max(long),
      )  # fmt: skip


def without_masks(source: Source, sizes) -> np.ndarray:
  """For each example of a source, packed or not, whether it surely has no mask.

  sizes: of its records, None for one that is defective.
  """
  bare = np.array([size is None or not size.segs for size in sizes], bool)
  if source.num_records() == len(source):
    return bare
  return np.array([bare[list(source.members(i))].all() for i in range(len(source))])


def share_without_masks(measured: Measured) -> float:
  """How often a record that is drawn is a sound one without a mask."""
  source, sizes = measured
  bare = np.array([size is not None and not size.segs for size in sizes], bool)
  if not isinstance(source, Mixture):
    return float(bare.mean())
  shares = [part.mean() for part in source.cut(bare)]
  return float(np.average(shares, weights=source.weights))


def _longest(lengths):
  """The last of ascending lengths that is no outlier."""
  usual = lengths[math.ceil(NEARLY_ALL * len(lengths)) - 1]
  return max(n for n in lengths if n <= OUTLIER * usual)


def _tell_defects(source, sizes):
  defects = sum(size is None for size in sizes)
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


def _kept(source, tokenizer, options, folder):
  key = json.dumps([source.fingerprint(), tokenizer.fingerprint(), options])
  name = hashlib.sha256(key.encode()).hexdigest()[:16]
  path = folder / "sizes" / f"{name}.json"
  if distributed.is_first() and _read(path, len(source)) is None:
    sizes = source.sizes(tokenizer, options)
    workdir.write_atomically(path, json.dumps(sizes) + "\n")
  distributed.barrier("sizes")
  sizes = _read(path, len(source))
  # Another host may not see the folder: it counts for itself.
  return source.sizes(tokenizer, options) if sizes is None else sizes


def _read(path, count):
  """The sizes in a file, or None where they are not there or not whole."""
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))
    sizes = tuple(row and Size(*row) for row in rows)
  except (OSError, ValueError, TypeError):
    return None
  return sizes if len(sizes) == count else None
