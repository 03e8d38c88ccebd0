"""The form of a folder, by looking."""

import os

import pytest

from input_pipeline.annotations import find
from input_pipeline.annotations.find import find_form, make_form
from input_pipeline.annotations.prist_form import Prist
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.annotations import (
  test_coco_form,
  test_index_png,
  test_label_studio,
  test_labelme_form,
  test_yolo_seg,
)
from tests.input_pipeline.annotations.drawn import (
  DOG,
  HAT,
  assert_masks,
  drawn,
  only,
  photo,
  read,
  write_json,
  write_png,
  write_text,
)


def one_hot(folder):
  photo(folder / "images/a.jpg")
  write_png(folder / "masks/a_hat.png", 255 * drawn(HAT))


def prist(folder, *more):
  shape = test_labelme_form.shape
  photo(folder / "images/a.jpg")
  shapes = shape("dog", DOG), shape("hat", HAT)
  test_labelme_form.write(folder / "masks/a.json", *shapes)
  talk = [
    {"from": "human", "value": "What does the dog wear?"},
    {"from": "gpt", "value": "A hat: [SEG]"},
  ]
  record = {"img_id": "a.jpg", "dialogue": talk, "focus": "hat"}
  write_json(folder / "train.json", [record, record | {"focus": None}, *more])


FORMS = {
  "labelme": lambda f: test_labelme_form.make(f, test_labelme_form.shape("dog", DOG)),
  "coco": lambda f: test_coco_form.make(
    f, test_coco_form.thing(test_coco_form.flat(DOG))
  ),
  "label_studio": lambda f: test_label_studio.make(
    f, test_label_studio.task(test_label_studio.annotation())
  ),
  "yolo_seg": lambda f: test_yolo_seg.make(f, test_yolo_seg.row(0, *DOG)),
  "index_png": lambda f: test_index_png.make(f, test_index_png.VALUES),
  "one_hot_png": one_hot,
  "prist": prist,
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_found(tmp_path, name):
  FORMS[name](tmp_path)
  assert find_form(SourceFolder(tmp_path)).name == name


def test_several_forms_are_listed_with_the_remedy(tmp_path):
  FORMS["coco"](tmp_path)
  FORMS["index_png"](tmp_path)
  with pytest.raises(UserError) as error:
    find_form(SourceFolder(tmp_path))
  text = str(error.value)
  assert "coco: COCO JSON labels.coco.json; index_png: 1 index PNGs" in text
  assert text.endswith("choose one with --form=coco")


def test_nothing_found_lists_what_was_looked_for(tmp_path):
  photo(tmp_path / "a.jpg")
  write_text(tmp_path / "README.md", "pictures")
  with pytest.raises(UserError) as error:
    find_form(SourceFolder(tmp_path))
  text = str(error.value)
  assert "holds 1 photographs and no labels of a known form; --form=NAME says" in text
  lines = error.value.details.splitlines()
  assert [line.split()[0] for line in lines] == list(find.FORMS)


def test_an_unknown_form_lists_the_known_ones():
  with pytest.raises(UserError, match="--form=voc: is none of prist, labelme, coco"):
    make_form("voc")


def test_dialogues_of_prist_are_used_as_they_are(tmp_path):
  prist(tmp_path)
  found = only(Prist(), tmp_path)
  assert_masks(found, ("hat", drawn(HAT)))
  turns = (("user", "What does the dog wear?"), ("assistant", "A hat: [SEG]"))
  assert found.dialogues == ((turns, ("hat",)), (turns, ("",)))


def test_a_dialogue_that_cannot_be_used_leaves_the_others(tmp_path):
  talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "[SEG]"}]
  record = {"img_id": "a.jpg", "dialogue": talk, "focus": "tail"}
  prist(tmp_path, record, record | {"dialogue": []})
  photos, lines = read(Prist(), tmp_path)
  assert lines == ["train.json:3: dialogue is empty"]
  (bad,) = photos["a.jpg"].defects
  assert str(bad).startswith("train.json:2: masks/a.json: no ground truth")
  assert len(photos["a.jpg"].dialogues) == 2


def fifo(path):
  os.mkfifo(path)


def digits(path):
  path.write_text('{"imageHeight": 1' + "0" * 5000 + ', "shapes": []}')


def nested(path):
  path.write_text("[" * 300_000)


@pytest.mark.parametrize("odd", [fifo, digits, nested])
@pytest.mark.parametrize("name", ["images/b.json", "notes.json", "labels/b.txt"])
def test_a_file_of_another_kind_does_not_end_or_hold_up_the_look(tmp_path, odd, name):
  test_labelme_form.make(tmp_path, test_labelme_form.shape("dog", DOG))
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  odd(path)
  assert find_form(SourceFolder(tmp_path)).name == "labelme"
