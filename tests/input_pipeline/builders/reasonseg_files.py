"""ReasonSeg as published: five pictures, each trap of the real files once."""

import json

from tests.input_pipeline.builders.in_memory import write_json, write_photo

HEIGHT, WIDTH = 24, 32
BIG = [[4, 4], [20, 4], [20, 16], [4, 16]]
ISLAND = [[8, 8], [12, 8], [12, 12], [8, 12]]
INNER = [[9, 9], [10, 9], [10, 10], [9, 10]]


def shape(label, points):
  return {
    "label": label,
    "labels": [label],
    "shape_type": "polygon",
    "image_name": "a.jpg",
    "points": points,
    "group_id": None,
    "flags": {},
  }


def annotation(*shapes, text=("what keeps the coffee warm?",), is_sentence=True):
  return {"text": list(text), "is_sentence": is_sentence, "shapes": list(shapes)}


# A hole that is ignored with a small target in it; a flag, which is nothing.
NESTED = annotation(
  shape("target", INNER),
  shape("ignore", ISLAND),
  shape("target", BIG),
  shape("flag", [[0, 0], [31, 0], [31, 23], [0, 23]]),
  text=("what keeps the coffee warm?", "why is it warm?", "which thing is it?"),
)
PHRASE = annotation(
  shape("target", ISLAND), text=["the thing for hot café"], is_sentence=False
)


def write_reasonseg(root, *, inner="reason_seg/ReasonSeg"):
  base = root / inner
  files = {
    "train/1_a": NESTED,
    "train/2_b": PHRASE,
    "val/3_c": annotation(shape("target", BIG), text=("one?", "two?")),
    "test/4_d": annotation(shape("target", BIG)),
    "test/5_e": annotation(shape("ignore", BIG)),
  }
  for name, content in files.items():
    write_photo(base / f"{name}.jpg", HEIGHT, WIDTH, seed=len(name))
    write_json(base / f"{name}.json", content)
  return root


def write_cp1252(root):
  """The second file of train, as an old Windows wrote it."""
  data = json.dumps(PHRASE, ensure_ascii=False).encode("cp1252")
  (root / "reason_seg/ReasonSeg/train/2_b.json").write_bytes(data)


def write_explanations(path, entries=None):
  entries = entries or [
    {"image": "1_a.jpg", "query": "never used", "outputs": "A thermos holds heat."},
    {"image": "9_z.jpg", "query": "q", "outputs": "of no picture"},
    {"image": "2_b.jpg", "query": "q", "outputs": "It is [SEG]."},
  ]
  write_json(path, entries)
