"""Where the masks of MRSeg lie: lists of COCO's form, RLE by key, class maps, labelme.

Each data set that a conversation names has one place below `annotations_folder`.
"""

from collections.abc import Iterator, Mapping

from input_pipeline import mask_ops
from input_pipeline.builders import class_maps, fields, reasonseg
from input_pipeline.builders.annotated import union_rle
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.photographs import Photo
from input_pipeline.records import RecordError

ROOT = "annotations_folder"
_PACO = "paco_lvis/annotations/paco_lvis_v1"
# {data set: {split: file}} of lists in COCO's form, by the annotation's id.
_COCO = {
  "refcoco": {"": "refcoco/instances.json"},
  "refcoco+": {"": "refcoco+/instances.json"},
  "refcocog": {"": "refcocog/instances.json"},
  "lvis": {"": "lvis/lvis_v1_train.json"},
  "paco_lvis": {"train": f"{_PACO}_train.json", "val": f"{_PACO}_val.json"},
}
# {data set: file} of objects {key: RLE, or {segmentation, image_dim}}.
_BY_KEY = {
  "pascal": "pascal/pascal_labels.json",
  "visual_genome": "visual_genome/vg_masks_train_new.json",
  "description_based_coco": "description_based_coco/seg_mask_per_instance.json",
}
# {data set: (folder of PNG, what to add to a class to get its value there)}
_CLASS_MAPS = {
  "ade20k": ("ade20k/annotations/training", 1),
  "cocostuff": ("cocostuff/train2017", 0),
}
_REASONSEG = {split: f"reason_seg/annotations/{split}" for split in ("train", "val")}
BY_PICTURE = (*_CLASS_MAPS, "reason_seg")
NAME = "object"  # of a target whose data set gives it none


def layout() -> str:
  """The expected files, one a line, for the data card."""
  files = [f for files in _COCO.values() for f in files.values()]
  files += [*_BY_KEY.values(), *(f"{folder}/" for folder, _ in _CLASS_MAPS.values())]
  return "\n".join(f"  {name}" for name in (*files, *_REASONSEG.values()))


def stored(
  src: SourceFolder, split: str, wanted: Mapping[str, tuple]
) -> Iterator[tuple[str, dict]]:
  """(key, what draws the mask) pairs of {key: (path, data set, number)} `wanted`.

  A mask whose file is missing has the reason as "missing"; one that its file lacks is
  left out.
  """
  by_dataset = {}
  for key, (path, dataset, number) in wanted.items():
    by_dataset.setdefault(dataset, {})[number] = key
    if dataset in BY_PICTURE:
      yield key, {"key": key} | _of_picture(dataset, split, path, number)
  for dataset, keys in by_dataset.items():
    if dataset in BY_PICTURE:
      continue
    file = _file(dataset, split)
    if file is None or not src.is_file(file):
      reason = f"needs {file}, which is not there"
      if file is None:
        reason = f"data set {dataset[:40]!r} is not known"
      yield from ((key, {"missing": reason}) for key in keys.values())
      continue
    read = _read_coco if dataset in _COCO else _read_by_key
    for number, mask in read(src, file, keys):
      yield keys[number], {"key": keys[number]} | mask


def draw(src: SourceFolder, mask: Mapping, photo: Photo) -> dict:
  """RLE of a mask as `stored` describes it. Raises ValueError, which names it."""
  try:
    if mask.get("labelme"):
      content = src.json(mask["labelme"], fallback_encoding="cp1252")
      return reasonseg.read_target(content, photo.height, photo.width)
    if mask.get("class_map"):
      map_HW = class_maps.read_class_map(src, mask["class_map"])
      class_maps.check_size(map_HW, photo)
      return mask_ops.encode_rle(map_HW == mask["value"])
    return union_rle([mask["segmentation"]], photo.height, photo.width)
  except RecordError as error:
    raise ValueError(f"mask {mask['key']}: {error.file}: {error.reason}") from None
  except ValueError as error:
    raise ValueError(f"mask {mask['key']}: {error}") from None


def _file(dataset, split):
  if dataset in _BY_KEY:
    return f"{ROOT}/{_BY_KEY[dataset]}"
  files = _COCO.get(dataset)
  return files and f"{ROOT}/{files.get(split) or files['']}"


def _of_picture(dataset, split, path, number):
  """What draws a mask that is in a file of the picture's name."""
  stem = path.rpartition("/")[2].rpartition(".")[0]
  if dataset == "reason_seg":
    return {"name": NAME, "labelme": f"{ROOT}/{_REASONSEG[split]}/{stem}.json"}
  folder, offset = _CLASS_MAPS[dataset]
  if not number.isdecimal() or len(number) > 3:
    return {"missing": f"class {number[:20]!r} of {dataset} is no number"}
  value = int(number) + offset
  return {"name": NAME, "class_map": f"{ROOT}/{folder}/{stem}.png", "value": value}


def _read_coco(src, file, keys):
  """(number, mask) pairs; a target is called by its class."""
  names = {
    str(item.get("id")): fields.class_name(item["name"].replace(":", " "))
    for item in src.items(file, "categories.item")
    if isinstance(item, dict) and isinstance(item.get("name"), str)
  }
  for item in src.items(file, "annotations.item"):
    if isinstance(item, dict) and (number := str(item.get("id"))) in keys:
      name = names.get(str(item.get("category_id"))) or NAME
      yield number, {"name": name, "segmentation": item.get("segmentation")}


def _read_by_key(src, file, keys):
  for number, value in src.pairs(file):
    if number in keys:
      if isinstance(value, dict) and "segmentation" in value:
        value = value["segmentation"]
      yield number, {"name": NAME, "segmentation": value}
