"""The one door to data on disk: `SCHEME:PLACE`, or the path of a PRIST folder.

A new format is one row of OPENERS and the module that reads it.
"""

import os
import re
from collections.abc import Callable

from input_pipeline import prist
from input_pipeline.source import Source
from miras_jax.errors import UserError

DEFAULT = "prist"
# opener(place, split, images_dir=None, masks_dir=None) -> Source. One that has no use
# for these folders raises UserError when it is given any.
OPENERS: dict[str, Callable[..., Source]] = {
  "prist": prist.read_dataset,
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
    uri: `DIR` or `prist:DIR`, a folder in PRIST's layout; else SCHEME:PLACE.
    split: e.g. `train`.
    images_dir, masks_dir: where photographs and masks lie, when not in the data set.

  Raises:
    UserError: an unknown scheme, no such data set, no such split.
    RecordError: the list of records as a whole is unusable.
  """
  scheme, place = resolve(uri)
  return OPENERS[scheme](place, split, images_dir=images_dir, masks_dir=masks_dir)


def resolve(uri: str | os.PathLike) -> tuple[str, str]:
  """(scheme, place) of a data set. Raises UserError for an unknown scheme.

  A folder that exists is a folder, whatever colons its name holds, and so is a path
  whose colon no scheme can have before it (`C:\\data`, `./a:b`).
  """
  text = os.fspath(uri)
  scheme, colon, place = text.partition(":")
  if os.path.isdir(text) or not colon or not re.fullmatch(r"[A-Za-z][\w+.-]+", scheme):
    return DEFAULT, text
  if scheme not in OPENERS:
    raise UserError(
      f"{text}: no such folder, and {scheme!r} is no kind of data set;"
      f" there are {', '.join(f'{known}:' for known in OPENERS)}"
    )
  if not place:
    raise UserError(f"{text}: names no data set, want {scheme}:PLACE")
  return scheme, os.path.expanduser(place)
