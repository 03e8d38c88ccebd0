"""Devices that are not there, as far as a plan looks at them."""

import itertools
from typing import NamedTuple


class Device(NamedTuple):
  device_kind: str
  coords: tuple = ()
  slice_index: int = 0


def slice_of(kind, *shape, slices=1):
  """The devices of slices of a torus."""
  places = itertools.product(*map(range, shape))
  cores = [(*place, 0)[:3] for place in places]
  return [Device(kind, c, s) for s in range(slices) for c in cores]
