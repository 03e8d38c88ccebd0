"""The picture of a conversation with its masks, as a judge or a rater sees it."""

import functools
import json
import pathlib
import threading

import numpy as np

from input_pipeline import image_ops, mask_ops, safe_files
from input_pipeline.open_source import open_source
from input_pipeline.records import MOST_NAME, RecordError, cut, one_line
from miras_jax import drawing
from miras_jax.errors import UserError

GREY = 127
KEPT = 16  # pictures in memory
MOST_PIXELS = 2_000_000_000  # of the masks of a picture, which are drawn together


class Pictures:
  """Finds photographs by the `image` of a conversation, draws masks over them.

  find(image): the encoded bytes; UserError, ValueError or FileNotFoundError where there
  are none. side: pixels of the longest side.
  """

  def __init__(self, find, side: int):
    self._find, self._side, self._lock = find, side, threading.Lock()
    self._decoded = functools.lru_cache(KEPT)(self._decode)
    # A conversation is shown in several questions, one after the other.
    self._drawn = functools.lru_cache(KEPT)(self._draw)

  def draw(self, conversation, *, blank=False) -> np.ndarray:
    """RGB uint8 (H, W, 3). blank: grey of the same size. UserError names the id."""
    name = one_line(cut(conversation.id, MOST_NAME))
    try:
      return self._drawn(conversation.image, json.dumps(conversation.masks), blank)
    except FileNotFoundError:
      raise UserError(
        f"{name}: its image {conversation.image!r} is not there;"
        " --images-dir or --data and --split say where it is"
      ) from None
    except (UserError, ValueError) as error:
      raise UserError(f"{name}: cannot be drawn: {error}") from None

  def _draw(self, image, masks, blank):
    with self._lock:  # a source is no reader for several threads
      image_HWC = self._decoded(image)
    rles = json.loads(masks)
    if len(rles) * image_HWC[..., 0].size > MOST_PIXELS:
      raise ValueError(
        f"{len(rles):,} masks of {image_HWC[..., 0].size:,} pixels, want at most"
        f" {MOST_PIXELS:,} pixels together"
      )
    masks = [_mask(rle, image_HWC) for rle in rles]
    side = min(self._side, max(image_HWC.shape[:2]))
    if blank:
      image_HWC, masks = np.full_like(image_HWC, GREY), []
    picture_HWC = drawing.draw_panel(drawing.Panel("", image_HWC, tuple(masks)), side)
    picture_HWC.setflags(write=False)  # it is kept
    return picture_HWC

  def _decode(self, image):
    return image_ops.decode_image(self._find(image))


def open_pictures(images_dir, data, split, side) -> Pictures | None:
  """Pictures of a folder or of a data set; None where neither is given."""
  if images_dir and data:
    raise UserError("--images-dir and --data: give one of them")
  if images_dir:
    if not pathlib.Path(images_dir).is_dir():
      raise UserError(f"--images-dir={images_dir}: no such folder")
    return Pictures(functools.partial(_in_folder, images_dir), side)
  if data:
    return Pictures(_in_source(open_source(data, split)), side)
  return None


def _in_folder(folder, image):
  path = safe_files.resolve_inside(folder, image)
  return safe_files.read_bytes(path, safe_files.MAX_IMAGE_BYTES)


def _in_source(source):
  places = {image: i for i, image in enumerate(source.image_ids)}

  def find(image):
    if image not in places:
      raise FileNotFoundError(image)
    record = source.load(places[image])
    if isinstance(record, RecordError):
      raise record
    return record.image

  return find


def _mask(rle, image_HWC):
  """A mask of the image's size; an empty one where none was made."""
  if rle is None:
    return np.zeros(image_HWC.shape[:2], np.uint8)
  mask_HW = mask_ops.decode_rle(rle)
  if mask_HW.shape != image_HWC.shape[:2]:
    raise ValueError(
      f"its mask is of {'x'.join(map(str, mask_HW.shape))}, the image of"
      f" {'x'.join(map(str, image_HWC.shape[:2]))}"
    )
  return mask_HW
