"""More pictures of a labelled photograph, made before anything is said about it.

What is then written is true of the picture as it is: a mirrored photograph has its left
on the right, and what a crop leaves out is not there. H W its height and width, C = 3.
"""

import dataclasses
import hashlib
import random

import cv2
import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations.photo import LabelledPhoto, Region

MOST_CUT = 0.2  # of a side, at each of its ends
QUALITY = 95  # of the JPEG


def view(photo: LabelledPhoto, image_HWC, number: int):
  """(photograph, image_HWC) of view `number`: 0 as they are, each odd one mirrored,
  each from 2 on cropped by chance. Equal numbers give equal views."""
  if not number:
    return photo, image_HWC
  window = _window(photo, number) if number > 1 else np.s_[:, :]
  step = -1 if number % 2 else 1

  def seen(array):
    return np.ascontiguousarray(array[window][:, ::step])

  image_HWC = seen(image_HWC)
  jpeg = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
  changed = dataclasses.replace(
    photo,
    image=cv2.imencode(".jpg", image_HWC[..., ::-1], jpeg)[1].tobytes(),
    image_id=f"{photo.image_id}/{number}",
    height=image_HWC.shape[0],
    width=image_HWC.shape[1],
    regions=_regions(photo.regions, seen),
    dialogues=(),  # said of the photograph as it was
  )
  return changed, image_HWC


def _window(photo, number):
  digest = hashlib.sha256(f"{photo.image_id}\0{number}".encode()).digest()
  rng = random.Random(int.from_bytes(digest[:16], "big"))

  def span(side):
    first, last = (int(rng.uniform(0, MOST_CUT) * side) for _ in range(2))
    return slice(first, side - last)

  return span(photo.height), span(photo.width)


def _regions(regions, seen):
  """Regions with the masks that are seen, without those of which nothing is."""
  masks = [seen(mask_ops.decode_rle(region.rle)) for region in regions]
  kept = [i for i, mask_HW in enumerate(masks) if mask_HW.any()]
  place = {i: number for number, i in enumerate(kept)}
  return tuple(
    Region(
      name=regions[i].name,
      rle=mask_ops.encode_rle(masks[i]),
      part_of=place.get(regions[i].part_of),
      crowd=regions[i].crowd,
    )
    for i in kept
  )
