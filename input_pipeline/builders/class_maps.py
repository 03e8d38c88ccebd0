"""Sources in which a picture has a class map: a PNG whose pixel values are classes.

As published, each class that a picture shows is a conversation of its own and the mask
is all of its pixels. H W size of the picture.
"""

import abc
import io
import pathlib
import struct
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from input_pipeline import image_ops, mask_ops
from input_pipeline.builders.builder import Builder, Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.one_target import one_target
from input_pipeline.builders.photographs import Photo, read_photo
from input_pipeline.records import WHOLE_FILE, RecordError, SegConversation

_PALETTE, _GREY = 3, 0  # colour types of a PNG


class ClassMaps(Builder):
  """What such sources share; a source says where its files are and what values mean."""

  def __init__(self):
    self._classes = (None, {})  # the root they were read from, {value: name or None}

  @abc.abstractmethod
  def folders(self, src: SourceFolder, split: str) -> tuple[str, str]:
    """Folder of the photographs (.jpg), folder of the class maps (.png)."""

  @abc.abstractmethod
  def classes(self, src: SourceFolder) -> Mapping[int, str | None]:
    """Name of every value that a map may hold; None: its pixels are no target."""

  @abc.abstractmethod
  def picture_id(self, stem: str) -> str:
    """The `image_id` of the photograph with this file name, less its ending.

    Raises ValueError for a name that the source does not have."""

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    photos, maps = self.folders(src, split)
    photo_names = {_stem(name): name for name in src.list(photos, ".jpg")}
    map_names = {_stem(name): name for name in src.list(maps, ".png")}
    for stem in sorted(photo_names | map_names):
      photo, map_name = photo_names.get(stem), map_names.get(stem)
      if map_name is None:
        missing = f"no such file: the class map of {photo}"
        yield RecordError(f"{maps}/{stem}.png", WHOLE_FILE, missing)
      elif photo is None:
        missing = f"no such file: the photograph of {map_name}"
        yield RecordError(f"{photos}/{stem}.jpg", WHOLE_FILE, missing)
      else:
        yield {"id": f"{split}/{stem}", "file": map_name, "photo": photo}

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    classes = self._known_classes(src)
    try:
      image_id = self.picture_id(_stem(unit["photo"]))
      photo = read_photo(src, unit["photo"])
      map_HW = read_class_map(src, unit["file"])
      check_size(map_HW, photo)
      rles = _one_mask_a_name(map_HW, classes)
    except ValueError as error:
      yield RecordError(unit["file"], WHOLE_FILE, str(error))
      return
    targets = [(value, rle) for value, rle in rles.items() if classes[value]]
    if not targets:
      reason = "shows no class: all of its pixels are unlabelled or left out"
      yield RecordError(unit["file"], WHOLE_FILE, reason)
    for value, rle in targets:
      yield one_target(
        source=self.card.name,
        id=f"{unit['id']}/{value}",
        photo=photo,
        image_id=image_id,
        phrase=classes[value],
        rle=rle,
      )

  def _known_classes(self, src):
    """`classes`, read once for a folder."""
    root = str(src.root)
    if self._classes[0] != root:
      self._classes = (root, dict(self.classes(src)))
    return self._classes[1]


def read_class_map(src: SourceFolder, name: str) -> np.ndarray:
  """The values of a PNG of 8 bits, grey or with a palette -> map_HW uint8.

  Raises ValueError with the reason, without the name; FileNotFoundError as a
  ValueError, too.
  """
  try:
    data = src.read(name)
    image_ops.image_size(data)
  except FileNotFoundError:
    raise ValueError("no such file") from None
  except image_ops.ImageError as error:
    raise ValueError(str(error)) from None
  if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
    raise ValueError("is no PNG: any other form may have changed its values")
  bits, colour = data[24], data[25]
  if colour not in (_PALETTE, _GREY) or (colour == _GREY and bits != 8):
    raise ValueError(
      f"is a PNG of {bits} bits and colour type {colour}, want a class map: 8 bits,"
      " grey or with a palette"
    )
  try:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
      return np.array(image)
  except (OSError, ValueError, SyntaxError, struct.error) as error:
    raise ValueError(f"damaged or truncated PNG: {error}") from None


def first_folder(src: SourceFolder, *names: str) -> str | None:
  """The first of the names that is a folder of the source."""
  return next((name for name in names if src.is_dir(name)), None)


def check_size(map_HW: np.ndarray, photo: Photo) -> None:
  """ValueError unless a map has the size of its photograph."""
  if map_HW.shape != (photo.height, photo.width):
    raise ValueError(
      f"is {map_HW.shape[1]}x{map_HW.shape[0]} pixels, its photograph"
      f" {photo.width}x{photo.height} (as EXIF data turn it)"
    )


def _one_mask_a_name(map_HW, classes):
  """{value: RLE}, of values with one name the first has the pixels of all.

  Raises ValueError for a value that is no class.
  """
  rles = mask_ops.encode_values(map_HW)
  if unknown := [value for value in rles if value not in classes]:
    raise ValueError(f"holds the values {unknown[:5]}, which are no class")
  first = {}
  table = np.arange(256, dtype=np.uint8)
  for value in rles:
    if classes[value] is not None:
      table[value] = first.setdefault(classes[value], value)
  if (table == np.arange(256)).all():
    return rles
  return mask_ops.encode_values(table[map_HW])


def _stem(name):
  return pathlib.PurePosixPath(name).stem
