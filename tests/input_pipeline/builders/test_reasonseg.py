"""ReasonSeg as published -> conversations, masks by its own rule, explanations."""

import numpy as np
import pytest

from input_pipeline import image_ops
from input_pipeline.builders import reasonseg, registry
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from tests.input_pipeline.builders import reasonseg_files as files
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  reasons,
  write_json,
  write_photo,
)
from tests.input_pipeline.builders.reasonseg_files import HEIGHT, WIDTH, shape

REASONSEG = registry.make("reasonseg")


def drawn(top, left, bottom, right):
  """ReasonSeg's rule draws the outline too: both ends are inside."""
  return box(HEIGHT, WIDTH, top, left, bottom + 1, right + 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  root = files.write_reasonseg(tmp_path_factory.mktemp("reasonseg"))
  files.write_explanations(root / "reason_seg/ReasonSeg/explanatory/train.json")
  files.write_cp1252(root)
  return root


def test_every_text_of_train_is_a_conversation_and_the_first_of_val(source):
  records, _ = build_in_memory(REASONSEG, source, "train")
  plain = [r.id for r in records if r.id.count("/") == 1]
  assert plain == ["1_a/0", "1_a/1", "1_a/2", "2_b/0"]
  assert {r.image_id for r in records} == {"reasonseg/1_a", "reasonseg/2_b"}
  (only,), _ = build_in_memory(REASONSEG, source, "val")
  assert only.turns[0][1].startswith("one? ")
  assert only.targets[0][0] == reasonseg.NAME


def test_small_shapes_lie_above_large_ones(source):
  records, _ = build_in_memory(REASONSEG, source, "train")
  wanted = drawn(4, 4, 16, 20)
  wanted[8:13, 8:13] = 0  # the ignored island is no target
  wanted[9:11, 9:11] = 1  # the small target inside it is
  np.testing.assert_array_equal(masks(records[0])[0], wanted)


def test_a_phrase_is_put_into_a_question_and_names_the_target(source):
  records, _ = build_in_memory(REASONSEG, source, "train")
  (record,) = [r for r in records if r.id == "2_b/0"]
  assert record.targets[0][0] == "the thing for hot café"  # of a cp1252 file
  assert "the thing for hot café" in record.turns[0][1]


def test_explanations_follow_the_mask_of_their_picture(source):
  records, errors = build_in_memory(REASONSEG, source, "train")
  explained = [r for r in records if "/explained" in r.id]
  assert [r.id for r in explained] == [f"1_a/{i}/explained0" for i in range(3)]
  for i, record in enumerate(explained):
    assert record.turns[1][1].endswith(" A thermos holds heat.")
    assert record.turns[0][1].startswith(files.NESTED["text"][i])
    assert len(record.targets) == 1
  told = [r for r in records if "/told" in r.id]
  assert all(r.targets == () and r.turns[1][1][0] == "A" for r in told)
  assert reasons(errors) == {
    1: "image '9_z.jpg' is no picture of train",
    2: "outputs holds [SEG], which is no text in an answer",
  }


def test_about_a_tenth_of_the_conversations_explain_without_a_mask():
  rle = {"size": [1, 1], "counts": "01"}
  forms = [
    form
    for i in range(2000)
    for form, *_ in reasonseg._conversations(f"x/{i}", "q?", True, rle, ["Because."])
  ]
  assert forms.count("") == forms.count("/explained0") == 2000
  assert 0.075 < forms.count("/told0") / len(forms) < 0.115


def test_a_test_file_without_a_target_is_named(source):
  records, errors = build_in_memory(REASONSEG, source, "test")
  assert [r.id for r in records] == ["4_d/0"]
  assert str(errors[0]) == (
    "reason_seg/ReasonSeg/test/5_e.json:-: has no polygon of the target"
  )


@pytest.mark.parametrize("inner", ["ReasonSeg", "reason_seg", "."])
def test_other_trees_are_found(tmp_path, inner):
  files.write_reasonseg(tmp_path, inner=inner)
  files.write_explanations(tmp_path / "reason_seg/explanatory/train.json")
  assert REASONSEG.splits(SourceFolder(tmp_path)) == ("train", "val", "test")
  records, _ = build_in_memory(REASONSEG, tmp_path, "train")
  assert any("/explained" in record.id for record in records)
  without = registry.make("reasonseg", explanations=False)
  records, errors = build_in_memory(without, tmp_path, "train")
  assert (len(records), errors) == (4, [])


def test_a_mask_has_the_size_that_viewers_show(tmp_path):
  files.write_reasonseg(tmp_path)
  path = tmp_path / "reason_seg/ReasonSeg/val/3_c.jpg"
  write_photo(path, WIDTH, HEIGHT, exif=6)  # a camera that was held sideways
  (record,), _ = build_in_memory(REASONSEG, tmp_path, "val")
  assert image_ops.decode_image(record.image).shape == (HEIGHT, WIDTH, 3)
  np.testing.assert_array_equal(masks(record)[0], drawn(4, 4, 16, 20))


BAD = {
  "no_shapes": ({"shapes": None}, "shapes is a NoneType, want a list"),
  "no_text": ({"text": []}, "text is an empty list"),
  "empty_text": ({"text": [" "]}, "text is empty"),
  "number_text": ({"text": [3]}, "text is a int, want a text"),
  "sentence": ({"is_sentence": "yes"}, "is_sentence is a str"),
  "points": ({"shapes": [shape("target", [[1, 2], [3]])]}, "no list of [x, y]"),
  "line": ({"shapes": [shape("target", [[1, 2], [3, 4]])]}, "enclose nothing"),
  "far": (
    {"shapes": [shape("target", [[90, 90], [99, 90], [99, 99]])]},
    "outside the picture",
  ),
  "infinite": (
    {"shapes": [shape("target", [[0, 0], [1e9, 0], [9, 9]])]},
    "past 1e+06 pixels",
  ),
  "huge": (
    {"shapes": [shape("target", [[0, 0], [1e308, 1e308], [9, 1e308]])]},
    "past 1e+06 pixels",
  ),
}


def test_each_bad_file_is_named(tmp_path):
  files.write_reasonseg(tmp_path)
  base = tmp_path / "reason_seg/ReasonSeg/val"
  for name, (change, _) in BAD.items():
    write_photo(base / f"{name}.jpg", HEIGHT, WIDTH)
    content = files.annotation(shape("target", files.BIG)) | change
    write_json(base / f"{name}.json", content)
  write_photo(base / "alone.jpg", HEIGHT, WIDTH)
  write_json(base / "blind.json", files.PHRASE)
  (base / "broken.jpg").write_bytes((base / "alone.jpg").read_bytes()[:-200])
  write_json(base / "broken.json", files.PHRASE)
  (base / "text.json").write_text("{")
  write_photo(base / "text.jpg", HEIGHT, WIDTH)
  records, errors = build_in_memory(REASONSEG, tmp_path, "val")
  assert [r.id for r in records] == ["3_c/0"]
  found = {e.file.rpartition("/")[2].removesuffix(".json"): e.reason for e in errors}
  for name, (_, reason) in BAD.items():
    assert reason in found.pop(name)
  assert found.pop("alone") == "no such file"
  assert found.pop("blind") == "has no picture of its name (.jpg)"
  assert "val/broken.jpg: damaged or truncated JPEG" in found.pop("broken")
  assert "line 1 column 2" in found.pop("text")
  assert not found


def test_without_a_split_the_layout_is_told(tmp_path):
  with pytest.raises(UserError, match="dvlab-research/LISA(.|\n)*is_sentence"):
    build_in_memory(REASONSEG, tmp_path, "train")


def test_a_list_of_explanations_that_breaks_off_is_named(tmp_path):
  files.write_reasonseg(tmp_path)
  path = tmp_path / "reason_seg/explanatory/train.json"
  path.parent.mkdir()
  path.write_text('[{"image": ')
  with pytest.raises(RecordError, match="explanatory/train.json:-: is not valid JSON"):
    build_in_memory(REASONSEG, tmp_path, "train")
