"""The arrays of a batch and of the feature cache: one table, which everybody reads.

  B batch    T tokens of a row   M masks          S SAM canvas   A aux canvas
  N image tokens   D decoder width   G SAM feature grid   C SAM feature channels
  E earlier masks  Q side of those

Padded rows, examples of zero weight, dummy and benchmark batches, abstract shapes, the
cache's manifest and the shardings of a batch all come from `TABLE`. A new input is one
row here, the code that makes its values and the code that uses them.

Lengths come as `sizes`, {letter: length}: `DataConfig.sizes` has those of an example,
`models.miras.batch_sizes` all of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_INT, _PIXEL, _BF16 = (np.dtype(t) for t in ("int32", "uint8", ml_dtypes.bfloat16))


class Array(NamedTuple):
  """One array of a batch.

  axes: letters and numbers, "B" first. fill: what padding and examples of zero weight
  hold, a number or the name of a size ("S": the image covers the whole canvas; "pad":
  the tokenizer's id). pixels: of a cached feature, the pixels it takes the place of.
  asked: only in batches that are asked for it.
  """

  axes: tuple[str | int, ...]
  dtype: np.dtype
  fill: int | str
  pixels: str = ""
  asked: bool = False


# fmt: off
TABLE = {
  # The views of an image, and what of the SAM view is image.
  "image_sam":    Array(("B", "S", "S", 3), _PIXEL, 0),
  "image_aux":    Array(("B", "A", "A", 3), _PIXEL, 0),
  "valid_hw":     Array(("B", 2), _INT, "S"),
  "original_hw":  Array(("B", 2), _INT, "S"),
  # A row of tokens; segment 0 is padding; image slot -1 is text, N and more are tokens
  # of earlier masks.
  "tokens":       Array(("B", "T"), _INT, "pad"),
  "loss_mask":    Array(("B", "T"), _INT, 0),
  "positions":    Array(("B", "T"), _INT, 0),
  "segments":     Array(("B", "T"), _INT, 0),
  "image_slot":   Array(("B", "T"), _INT, -1),
  # One slot for each [SEG] of the row; obj_pos -1 is a [SEG] without [OBJ].
  "seg_pos":      Array(("B", "M"), _INT, 0),
  "obj_pos":      Array(("B", "M"), _INT, -1),
  "seg_valid":    Array(("B", "M"), _INT, 0),
  "masks":        Array(("B", "M", "S", "S"), _PIXEL, 0),
  # The number of the example in its data set; -1 only fills up a last batch.
  "record":       Array(("B",), _INT, -1),
  # The entry of the mixture that the example counts as; -1: none.
  "source":       Array(("B",), _INT, -1, asked=True),
  # Earlier masks (slots/): 0..255, whether there is one, whose it is (ORIGINS), the
  # [SEG] whose own mask of this step takes its place, which [SEG] see it and how they
  # relate to it (RELATIONS), which of them each [SEG] is about (E: none); -1: no label.
  "slot_masks":    Array(("B", "E", "Q", "Q"), _PIXEL, 0, asked=True),
  "slot_valid":    Array(("B", "E"), _INT, 0, asked=True),
  "slot_origin":   Array(("B", "E"), _INT, 0, asked=True),
  "slot_own":      Array(("B", "E"), _INT, -1, asked=True),
  "slot_seen":     Array(("B", "M", "E"), _INT, 0, asked=True),
  "slot_relation": Array(("B", "M", "E"), _INT, -1, asked=True),
  "slot_pointer":  Array(("B", "M"), _INT, -1, asked=True),
  # What `miras data cache` writes.
  "sam_features": Array(("B", "G", "G", "C"), _BF16, 0, pixels="image_sam"),
  "image_tokens": Array(("B", "N", "D"), _BF16, 0, pixels="image_aux"),
}
# fmt: on

# Earlier masks, in batches of a model that looks at them.
SLOTS = tuple(name for name in TABLE if name.startswith("slot_"))
# What the image encoders read.
ENCODER_INPUTS = ("image_sam", "image_aux", "valid_hw")
# Of a row of tokens, what only the loss reads.
_LOSS_ONLY = ("loss_mask",)


def feature_names() -> list[str]:
  """The features that a cache may hold."""
  return [name for name, array in TABLE.items() if array.pixels]


def names(extras: Iterable[str] = ()) -> list[str]:
  """The arrays of a batch that has `extras`: cached features, which take the place of
  their pixels, and what is there only when it is asked for."""
  extras = set(extras)
  replaced = {TABLE[name].pixels for name in extras}
  return [
    name
    for name, array in TABLE.items()
    if name in extras or not (array.pixels or array.asked or name in replaced)
  ]


def pixel_names(features: Iterable[str] = ()) -> list[str]:
  """The pixels that cached `features` leave to be read."""
  left = set(feature_names()) - set(features)
  return [TABLE[name].pixels for name in TABLE if name in left]


def row_names() -> list[str]:
  """The arrays that the tokens of a row decide: over T or M and nothing else."""
  axes = ("B", "T"), ("B", "M")
  return [n for n, array in TABLE.items() if array.axes in axes and not array.asked]


def prompt_names() -> list[str]:
  """The arrays of a row that generation reads."""
  over_tokens = (n for n, array in TABLE.items() if array.axes == ("B", "T"))
  return [name for name in over_tokens if name not in _LOSS_ONLY]


def shape(name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
  """Of a whole batch; KeyError where `sizes` lacks a letter."""
  return _lengths(TABLE[name].axes, sizes)


def example_shape(name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
  """Of one example: without B."""
  return _lengths(TABLE[name].axes[1:], sizes)


def sizes_of(name: str, example_shape: Iterable[int]) -> dict[str, int]:
  """{letter: length} that a shape has; ValueError when it is not of this array."""
  letters = list(zip(TABLE[name].axes[1:], example_shape, strict=True))
  sizes = {axis: length for axis, length in letters if isinstance(axis, str)}
  if any(sizes.get(axis, axis) != length for axis, length in letters):
    raise ValueError(f"{name} of shape {example_shape} is not {TABLE[name].axes[1:]}")
  return sizes


def fill_value(name: str, sizes: Mapping[str, int]) -> int:
  """What padding of this array holds."""
  fill = TABLE[name].fill
  return sizes[fill] if isinstance(fill, str) else fill


def filled(name: str, sizes: Mapping[str, int]) -> np.ndarray:
  """One example's array of nothing but padding."""
  value = fill_value(name, sizes)
  return np.full(example_shape(name, sizes), value, TABLE[name].dtype)


def padded(name: str, values: Any, sizes: Mapping[str, int]) -> np.ndarray:
  """One example's array that begins with `values`; ValueError when they do not fit."""
  values = np.asarray(values, TABLE[name].dtype)
  out = filled(name, sizes)
  out[tuple(slice(length) for length in values.shape)] = values
  return out


def complete(
  values: Mapping[str, np.ndarray],
  sizes: Mapping[str, int],
  wanted: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
  """One example: the arrays given as they are, the others of `names()` as padding."""
  wanted = names() if wanted is None else wanted
  return {n: values[n] if n in values else filled(n, sizes) for n in wanted}


def _lengths(axes, sizes):
  return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)
