"""The one door to data on disk: `SCHEME:PLACE`, or the path of a folder.

A new format is one row of OPENERS, one of SPLITS and the module that reads it.
"""

import glob
import os
import re
from collections.abc import Callable

from input_pipeline import prist, tfds_source
from input_pipeline.source import Source
from miras_jax.errors import UserError
from miras_jax.storage import copies

DEFAULT = "prist"
# opener(place, split, images_dir=None, masks_dir=None) -> Source. One that has no use
# for these folders raises UserError when it is given any.
OPENERS: dict[str, Callable[..., Source]] = {
  "prist": prist.read_dataset,
  "tfds": tfds_source.read_dataset,
}
# What lists the splits of a place; [] where it holds none.
SPLITS: dict[str, Callable[..., list[str]]] = {
  "prist": prist.find_splits,
  "tfds": tfds_source.find_splits,
}


def open_source(
  uri: str | os.PathLike,
  split: str,
  *,
  images_dir: str | os.PathLike | None = None,
  masks_dir: str | os.PathLike | None = None,
) -> Source:
  """Opens one split of a data set.

  Args:
    uri: `DIR`, one in PRIST's layout or what `miras data build` wrote; SCHEME:DIR
      says which.
    split: e.g. `train`.
    images_dir, masks_dir: where photographs and masks lie, when not in the data set.

  Raises:
    UserError: an unknown scheme, no such data set, no such split.
    RecordError: the list of records as a whole is unusable.
  """
  scheme, place = resolve(uri)
  images_dir, masks_dir = copies.fetch(images_dir), copies.fetch(masks_dir)
  return OPENERS[scheme](place, split, images_dir=images_dir, masks_dir=masks_dir)


def find_splits(uri: str | os.PathLike) -> list[str]:
  """Names of the splits of a data set. UserError where there is none."""
  scheme, place = resolve(uri)
  names = SPLITS[scheme](place)
  if not names:
    raise UserError(f"{place}: holds no data set")
  return names


def resolve(uri: str | os.PathLike) -> tuple[str, str]:
  """(scheme, local place) of a data set. Raises UserError for an unknown scheme.

  One in a bucket is copied first.

  A folder that exists is a folder, whatever colons its name holds, and so is a path
  whose colon no scheme can have before it (`C:\\data`, `./a:b`).
  """
  text = os.fspath(copies.fetch(uri))
  scheme, colon, place = text.partition(":")
  plain = not colon or not re.fullmatch(r"[A-Za-z][\w+.-]+", scheme)
  if os.path.isdir(text) or plain or place.startswith("//"):
    return _scheme_of(text), text
  if scheme not in OPENERS:
    raise UserError(
      f"{text}: no such folder, and {scheme!r} is no kind of data set;"
      f" there are {', '.join(f'{known}:' for known in OPENERS)}"
    )
  if not place:
    raise UserError(f"{text}: names no data set, want {scheme}:PLACE")
  return scheme, os.fspath(copies.fetch(os.path.expanduser(place)))


def _scheme_of(folder):
  """A folder with lists of its own is PRIST's; else with built data in it, TFDS's."""
  info = os.path.join(folder, tfds_source.INFO)
  listed = not os.path.exists(info) and glob.glob("*.json", root_dir=folder)
  return DEFAULT if listed or not tfds_source.find(folder) else "tfds"
