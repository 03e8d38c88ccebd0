"""Another picture of the same conversation: mirrored, cropped, smaller, recoloured.

Every change keeps the conversation and its masks true, as far as words tell (`words`):
no mirror image where a text tells a side, no crop where it tells a place, a size or a
number, no other hue where it names a colour. A crop keeps every target whole. What is
written in the picture itself is not read: a mirrored sign is a mirrored sign.

A change depends on seed, epoch and record alone, so that it is the same on any number
of hosts and threads and after any interruption. H W are the picture's sizes in pixels,
C = 3 (RGB), K masks.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline import image_ops, mask_ops, words
from input_pipeline.records import SegConversation

MARGIN = 0.1  # of a target's own height and width, kept around it
SMALLEST = 0.5  # side of a picture that is made smaller, as a share of the canvas
MOST_PIXELS = 16_000_000  # of a frame: photographs near it are made less small
LIGHT = 0.2  # most that brightness and contrast change, as a share
SATURATION = 0.3
HUE = 10  # most that a hue turns, in degrees


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
  """How likely each change is, 0 to 1, where the words allow it.

  crop_share: least height and width of a crop, as shares of the picture's. words: file
  of words, "" for `words.json`. seed: of the run.
  """

  flip: float = 0.0
  crop: float = 0.0
  scale: float = 0.0
  colour: float = 0.0
  crop_share: float = 0.6
  words: str = ""
  seed: int = 0

  def is_on(self) -> bool:
    return any((self.flip, self.crop, self.scale, self.colour))


def augmented(
  records: Sequence[SegConversation], options: Augment, epoch: int
) -> list[SegConversation]:
  """The conversations about one picture, all with the same other picture.

  The picture is encoded without loss, so that what follows sees ordinary records. They
  are as they were where a picture or mask is defective: who reads them names it.
  epoch: how often they were drawn before.
  """
  texts = [text for record in records for _, text in record.turns]
  texts += [name for record in records for name, _ in record.targets]
  try:
    image_HWC = image_ops.decode_image(records[0].image)
    masks = [mask_ops.decode_rle(rle) for r in records for _, rle in r.targets]
  except (image_ops.ImageError, ValueError):
    return list(records)
  if any(mask_HW.shape != image_HWC.shape[:2] for mask_HW in masks):
    return list(records)
  chance = Chance(options.seed, epoch, records[0].id)
  changed_HWC, changed = change(image_HWC, masks, texts, options, chance)
  if changed_HWC is image_HWC:
    return list(records)
  data = cv2.imencode(".bmp", changed_HWC[..., ::-1])[1].tobytes()
  rles = map(mask_ops.encode_rle, changed)
  return [
    dataclasses.replace(
      record,
      image=data,
      targets=tuple((name, next(rles)) for name, _ in record.targets),
    )
    for record in records
  ]


class Chance:
  """Numbers from 0 to 1 by name, the same for the same (seed, epoch, record)."""

  def __init__(self, seed: int, epoch: int, record: str):
    self._key = f"{seed}\0{epoch}\0{record}"

  def __call__(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
    digest = hashlib.blake2b(f"{self._key}\0{name}".encode(), digest_size=7).digest()
    return low + (high - low) * (int.from_bytes(digest) / 2**56)


def change(image_HWC, masks, texts: Sequence[str], options: Augment, chance: Chance):
  """(picture, masks) after the changes that are drawn and that `texts` allow.

  image_HWC uint8, masks K of (H, W); the same objects where nothing changes.
  """
  text, known = "\n".join(texts), words.load(options.words)
  if chance("flip?") < options.flip and not known.tells_side(text):
    image_HWC, masks = flip(image_HWC, masks)
  if chance("crop?") < options.crop and not known.tells_place(text):
    image_HWC, masks = crop(image_HWC, masks, options.crop_share, chance)
  if chance("scale?") < options.scale and not known.tells_place(text):
    image_HWC, masks = shrink(image_HWC, masks, chance)
  if chance("colour?") < options.colour:
    if not known.tells_light(text):
      image_HWC = relight(image_HWC, chance)
    if not known.tells_colour(text):
      image_HWC = recolour(image_HWC, chance)
  return image_HWC, masks


def flip(image_HWC, masks):
  """The mirror image, left and right exchanged."""
  return np.ascontiguousarray(image_HWC[:, ::-1]), [mask[:, ::-1] for mask in masks]


def crop(image_HWC, masks, share: float, chance: Chance):
  """A part of the picture that holds every target whole and a margin around it.

  Height and width are at least `share` of the picture's; empty masks stay empty.
  """
  size_2 = np.array(image_HWC.shape[:2])
  low_2, high_2 = _box_with_margin(masks, size_2)
  sides_2 = np.array([chance("crop height", share), chance("crop width", share)])
  sides_2 = np.maximum(np.ceil(sides_2 * size_2).astype(int), high_2 - low_2)
  first_2 = np.maximum(high_2 - sides_2, 0)
  last_2 = np.minimum(low_2, size_2 - sides_2)
  at_2 = np.array([chance("crop top"), chance("crop left")])
  top, left = (first_2 + at_2 * (last_2 - first_2 + 1)).astype(int)
  rows, columns = slice(top, top + sides_2[0]), slice(left, left + sides_2[1])
  return np.ascontiguousarray(image_HWC[rows, columns]), [
    m[rows, columns] for m in masks
  ]


def _box_with_margin(masks, size_2):
  """(top left, bottom right) of all masks and their margin; a point where all are
  empty, from which a crop may go anywhere."""
  low_2, high_2 = size_2.copy(), np.zeros(2, int)
  for mask_HW in masks:
    if not np.any(mask_HW):
      continue
    for axis in (0, 1):
      (inside,) = np.nonzero(np.any(mask_HW, axis=1 - axis))
      margin = int(np.ceil(MARGIN * (inside[-1] + 1 - inside[0])))
      low_2[axis] = min(low_2[axis], max(0, inside[0] - margin))
      high_2[axis] = max(high_2[axis], min(size_2[axis], inside[-1] + 1 + margin))
  return low_2, high_2


def shrink(image_HWC, masks, chance: Chance):
  """The whole picture, smaller on the canvas: in a frame of the mean colour."""
  height, width = image_HWC.shape[:2]
  least = max(SMALLEST, min(1.0, (height * width / MOST_PIXELS) ** 0.5))
  share = chance("scale", least)
  frame_2 = np.ceil(np.array([height, width]) / share).astype(int)
  top = int(chance("scale top") * (frame_2[0] - height + 1))
  left = int(chance("scale left") * (frame_2[1] - width + 1))
  place = slice(top, top + height), slice(left, left + width)
  framed_HWC = np.empty((*frame_2, 3), np.uint8)
  framed_HWC[:] = image_ops.AUX_FILL
  framed_HWC[place] = image_HWC
  framed = []
  for mask_HW in masks:
    framed.append(np.zeros(frame_2, np.uint8))
    framed[-1][place] = mask_HW
  return framed_HWC, framed


def relight(image_HWC, chance: Chance):
  """Another brightness and contrast, each by at most `LIGHT`."""
  contrast = 1 + chance("contrast", -LIGHT, LIGHT)
  brightness = 255 * chance("brightness", -LIGHT, LIGHT) / 2
  levels = np.arange(256, dtype=np.float64)
  levels = (levels - 127.5) * contrast + 127.5 + brightness
  return cv2.LUT(image_HWC, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def recolour(image_HWC, chance: Chance):
  """Other hues by at most `HUE` degrees, another saturation by at most `SATURATION`."""
  hsv_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2HSV_FULL)
  turn = round(chance("hue", -HUE, HUE) * 256 / 360)
  factor = 1 + chance("saturation", -SATURATION, SATURATION)
  levels = np.arange(256)
  hue = ((levels + turn) % 256).astype(np.uint8)
  saturation = np.clip(np.rint(levels * factor), 0, 255).astype(np.uint8)
  table = np.stack([hue, saturation, levels.astype(np.uint8)], axis=-1)[:, None]
  return cv2.cvtColor(cv2.LUT(hsv_HWC, table), cv2.COLOR_HSV2RGB_FULL)
