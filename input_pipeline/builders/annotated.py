"""What builders of photographs with labels share: the picture and its masks, checked.

Every function raises ValueError with a reason fit for the end of a problem line.
"""

from input_pipeline import coco_masks, exif, mask_ops
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.photographs import Photo, read_photo
from input_pipeline.records import SEG_TOKEN

MAX_LABELS = 1_000  # of one photograph, drawn for one conversation


def read_annotated(src: SourceFolder, name: str, height: int, width: int) -> Photo:
  """The picture of a file, which its annotations state to be of this size."""
  return as_stated(read_photo(src, name), name, height, width)


def as_stated(photo: Photo, name: str, height: int, width: int) -> Photo:
  """A picture that has the size that its annotations state.

  Where that is the size before a quarter turn by EXIF, they are for the pixels as they
  are stored: the picture is not turned then. ValueError for any other size.
  """
  turn = exif.orientation(photo.data)
  if exif.is_quarter_turn(turn) and (photo.width, photo.height) == (height, width):
    if height != width:
      return Photo(exif.without_orientation(photo.data), height, width)
  if (photo.height, photo.width) != (height, width):
    raise ValueError(
      f"{name}: is {photo.height} pixels high and {photo.width} wide, its annotations"
      f" are for {height} and {width}"
    )
  return photo


def union_rle(segmentations, height: int, width: int) -> dict:
  """The union of COCO segmentations (`coco_masks.union`) as RLE."""
  if len(segmentations) > MAX_LABELS:
    raise ValueError(f"{len(segmentations):,} masks, the limit is {MAX_LABELS:,}")
  mask_HW = coco_masks.union([], height, width)
  for segmentation in segmentations:
    mask_HW |= coco_masks.union(segmentation, height, width)
  return mask_ops.encode_rle(mask_HW)


def several_segs(count: int) -> str:
  """`count` [SEG] in one phrase: "[SEG], [SEG] and [SEG]"."""
  if count < 2:
    return SEG_TOKEN * count
  return f"{', '.join([SEG_TOKEN] * (count - 1))} and {SEG_TOKEN}"
