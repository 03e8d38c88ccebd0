"""COCO captions: a conversation a caption, all of a picture in one unit."""

from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from tests.input_pipeline.builders import list_files
from tests.input_pipeline.builders.in_memory import build_in_memory, reasons

CAPTIONS = (
  (9, "A dog on a chair.\n"),
  (25, "two men"),
  (9, " A brown dog sits on a chair "),
)


def built(root):
  return build_in_memory(registry.make("coco_captions"), root, "val")


def test_each_caption_is_a_conversation_without_the_space_around_it(tmp_path):
  records, errors = built(list_files.write_coco_captions(tmp_path, CAPTIONS))
  assert errors == []
  assert [(r.id, r.image_id, r.turns[1][1], r.targets) for r in records] == [
    ("val/25/1", "coco/000000000025", "two men", ()),
    ("val/9/0", "coco/000000000009", "A dog on a chair.", ()),
    ("val/9/2", "coco/000000000009", "A brown dog sits on a chair", ()),
  ]


def test_captions_of_one_picture_are_one_unit(tmp_path):
  src = SourceFolder(list_files.write_coco_captions(tmp_path, CAPTIONS))
  units = list(registry.make("coco_captions").units(src, "val"))
  assert [unit["number"] for unit in units] == [25, 9]


def test_bad_captions_are_named(tmp_path):
  bad = ((9, " \n"), (9, "a [SEG] on a table"), (9, 5), (26, "nothing"))
  records, errors = built(list_files.write_coco_captions(tmp_path, CAPTIONS + bad))
  assert len(records) == 3
  assert reasons(errors) == {
    "annotations/3": "caption is empty",
    "annotations/4": "caption holds [SEG], which is no text in an answer",
    "annotations/5": "caption is a int, want str",
    "annotations/6": "its picture 26 is none of `images`",
  }
