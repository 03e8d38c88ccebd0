"""PRIST's layout: photographs, labelme files and lists of dialogues, used as they are.

The regions of a photograph are the masks of its focuses: all there is of a name.
"""

from collections.abc import Iterator

from input_pipeline import prist
from input_pipeline.annotations import canvas, layout
from input_pipeline.annotations.photo import Form, LabelledPhoto, Region
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError


class Prist(Form):
  name = "prist"

  def __init__(self):
    self._read = {}  # (root, split) -> PristDataset

  def found(self, src: SourceFolder) -> str | None:
    splits = _splits(src)
    listed = ", ".join(f"{split}.json" for split in splits)
    return f"dialogues in {listed}" if splits else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    for split in _splits(src):
      dataset = self._dataset(src, split)
      records = {}
      for number, entry in enumerate(dataset.entries):
        if entry.problems:
          yield RecordError(dataset.file, number, entry.problems[0])
        else:
          records.setdefault(entry.img_id, []).append(number)
      for image, numbers in records.items():
        yield {"image": image, "split": split, "list": split, "records": numbers}

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    dataset = self._dataset(src, unit["list"])
    loaded = [dataset.load(number) for number in unit["records"]]
    good = [r for r in loaded if not isinstance(r, RecordError)]
    bad = [r for r in loaded if isinstance(r, RecordError)]
    if not good:
      raise bad[0]
    regions, dialogues = {}, []
    for record in good:
      dialogues.append((record.turns, tuple(name for name, _ in record.targets)))
      regions |= {name: rle for name, rle in record.targets if name}
    image = good[0].image
    height, width = canvas.decode(image).shape[:2]
    return LabelledPhoto(
      image=image,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(Region(name, rle) for name, rle in regions.items()),
      instances=False,
      dialogues=tuple(dialogues),
      defects=tuple(bad),
    )

  def _dataset(self, src, split):
    key = str(src.root), split
    if key not in self._read:
      self._read[key] = prist.read_dataset(str(src.root), split)
    return self._read[key]


def _splits(src):
  kinds = layout.json_kinds(src)
  return [
    n.removesuffix(".json") for n, k in kinds.items() if k == "prist" and "/" not in n
  ]
