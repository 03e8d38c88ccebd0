"""One's own photographs as a builder."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from input_pipeline import mask_ops
from input_pipeline.builders import registry, split_by_photograph
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.own import Own
from input_pipeline.narrate import write as narrate_write
from input_pipeline.records import RecordError
from miras_jax.data import command
from miras_jax.errors import UserError
from tests import prist_files
from tests.input_pipeline.annotations import test_find, test_labelme_form
from tests.input_pipeline.annotations.drawn import (
  CAT,
  DOG,
  HAT,
  drawn,
  photo,
  write_json,
  write_text,
)

TURNS = (("user", "Where is it?"), ("assistant", "[SEG]"))

SHORT = (("user", "Mark the dog."), ("assistant", "[SEG]"))


@pytest.fixture
def told(monkeypatch):
  """One conversation about the first region in place of the narrator's; what it got."""
  calls = []

  def write(
    photo_, image_HWC, key, *, wordings, per_photo, mix=narrate_write.MIX, edits=0.0
  ):
    if mix == narrate_write.SHORT:
      return [(SHORT, ((r.name, r.rle),)) for r in photo_.regions[:per_photo]]
    calls.append((photo_, image_HWC, key, wordings, per_photo))
    return [(TURNS, ((r.name, r.rle),)) for r in photo_.regions[:1]]

  monkeypatch.setattr(narrate_write, "write", write)
  return calls


def labelled(folder, name, *, seed=0, points=DOG):
  photo(folder / f"{name}.png", seed=seed)
  shape = test_labelme_form.shape("dog", points)
  test_labelme_form.write(folder / f"{name}.json", shape, image=f"{name}.png")


def units(builder, folder):
  """({split: units}, lines of defects), as the driver lists them."""
  src = SourceFolder(folder)
  made = {split: list(builder.units(src, split)) for split in builder.splits(src)}
  good = {
    s: [u for u in us if not isinstance(u, RecordError)] for s, us in made.items()
  }
  bad = [str(u) for us in made.values() for u in us if isinstance(u, RecordError)]
  return good, bad


def records(builder, folder, unit):
  return list(builder.records(SourceFolder(folder), json.loads(json.dumps(unit))))


def split_of(builder, folder):
  good, _ = units(builder, folder)
  return {unit["image"]: split for split, us in good.items() for unit in us}


def test_a_photograph_becomes_conversations(tmp_path, told):
  labelled(tmp_path, "a")
  builder = Own(splits="test:1", per_photo=3)
  good, bad = units(builder, tmp_path)
  (record,) = records(builder, tmp_path, good["test"][0])
  assert not bad
  assert (record.id, record.source, record.turns) == ("a.png/0", "own", TURNS)
  assert record.image == (tmp_path / "a.png").read_bytes()
  ((name, rle),) = record.targets
  np.testing.assert_array_equal(mask_ops.decode_rle(rle), drawn(DOG))
  ((found, image_HWC, key, _, per_photo),) = told
  assert image_HWC.shape == (found.height, found.width, 3)
  assert (key, per_photo) == ("a.png", 3)


def test_views_are_other_pictures_of_the_photographs_that_are_trained_on(
  tmp_path, told
):
  for seed, name in enumerate("abcd"):
    labelled(tmp_path, name, seed=seed)
  builder = Own(splits="train:0.5,val:0.5", views=3)
  good, _ = units(builder, tmp_path)
  photographs = {split: {u["image"] for u in us} for split, us in good.items()}
  assert len(good["train"]) == 3 * len(photographs["train"])
  assert len(good["val"]) == len(photographs["val"]) == 4 - len(photographs["train"])
  found = [records(builder, tmp_path, unit)[0] for unit in good["train"][:3]]
  first = found[0].id.removesuffix("/0")
  assert [record.id for record in found] == [f"{first}{k}/0" for k in ("", "/1", "/2")]
  assert len({record.image_id for record in found}) == 3
  as_drawn, mirrored = (mask_ops.decode_rle(r.targets[0][1]) for r in found[:2])
  np.testing.assert_array_equal(as_drawn[:, ::-1], mirrored)


def test_questions_of_one_round_come_after_the_conversations_in_train_alone(
  tmp_path, told
):
  for seed, name in enumerate("abcd"):
    labelled(tmp_path, name, seed=seed)
  builder = Own(splits="train:0.5,val:0.5", short=2)
  good, _ = units(builder, tmp_path)
  train, val = (records(builder, tmp_path, good[s][0]) for s in ("train", "val"))
  assert [record.turns for record in train] == [TURNS, SHORT]
  assert [record.turns for record in val] == [TURNS]


@pytest.mark.parametrize("views", [0, 65])
def test_a_number_of_views_out_of_bounds_is_an_error(views):
  with pytest.raises(UserError, match=f"--views={views}: want 1 to 64"):
    Own(views=views)


def test_equal_pictures_have_equal_ids(tmp_path, told):
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    labelled(tmp_path, name, seed=seed)
  builder = Own(splits="test:1")
  good, _ = units(builder, tmp_path)
  a, b, c = (records(builder, tmp_path, unit)[0].image_id for unit in good["test"])
  assert a == b != c


def test_the_narrator_writes_from_the_labels(tmp_path):
  photo(tmp_path / "a.png")
  shape = test_labelme_form.shape
  shapes = [shape(name, p) for name, p in (("dog", DOG), ("cat", CAT), ("hat", HAT))]
  test_labelme_form.write(tmp_path / "a.json", *shapes)
  builder = Own(splits="test:1")
  good, _ = units(builder, tmp_path)
  found = records(builder, tmp_path, good["test"][0])
  assert found and not any(isinstance(record, RecordError) for record in found)
  assert {name for r in found for name, _ in r.targets} <= {"dog", "cat", "hat", ""}


def test_dialogues_of_the_files_are_not_written_anew(tmp_path, told):
  test_find.prist(tmp_path)
  builder = Own()
  good, _ = units(builder, tmp_path)
  first, second = records(builder, tmp_path, good["train"][0])
  assert not told
  assert first.turns[1] == ("assistant", "A hat: [SEG]")
  np.testing.assert_array_equal(mask_ops.decode_rle(first.targets[0][1]), drawn(HAT))
  assert second.targets[0][0] == "" and not mask_ops.rle_area(second.targets[0][1])


def test_a_photograph_of_which_nothing_can_be_said_is_named(tmp_path):
  photo(tmp_path / "a.png")
  test_labelme_form.write(tmp_path / "a.json")
  builder = Own(splits="test:1")
  good, _ = units(builder, tmp_path)
  (error,) = records(builder, tmp_path, good["test"][0])
  assert str(error) == "a.png:-: no conversation can be written from its labels"


def test_a_defect_of_the_labels_is_a_line(tmp_path, told):
  labelled(tmp_path, "a", points=((0.1, 0.1), (0.5, 0.1), (0.5, 0.5)))
  builder = Own(splits="test:1")
  good, _ = units(builder, tmp_path)
  (error,) = records(builder, tmp_path, good["test"][0])
  assert str(error).startswith("a.json:-: all coordinates lie between 0 and 1")


def test_entries_without_a_unit_are_said_once(tmp_path, told):
  for i in range(20):
    labelled(tmp_path, f"{i:02}", seed=i)
  photo(tmp_path / "z.png", seed=99)
  good, bad = units(Own(), tmp_path)
  assert len(good) == 3
  assert bad == ["z.png:-: no labelme file belongs to it"]


def test_a_photograph_whose_name_is_not_utf8_is_named(tmp_path, told):
  labelled(tmp_path, "a")
  labelled(tmp_path, "caf\udce9")  # as the system gives a byte of Latin-1
  good, bad = units(Own(splits="test:1"), tmp_path)
  assert [unit["image"] for unit in good["test"]] == ["a.png"]
  assert bad == [r"caf\udce9.png:-: its name is not UTF-8; rename the file"]


def test_every_photograph_is_in_one_split_and_stays_there(tmp_path):
  for i in range(60):
    labelled(tmp_path, f"{i:02}", seed=i)
  before = split_of(Own(), tmp_path)
  assert len(before) == 60 and set(before.values()) == {"train", "val", "test"}
  labelled(tmp_path, "new", seed=99)
  after = split_of(Own(), tmp_path)
  assert {name: after[name] for name in before} == before


def test_augmented_copies_of_a_photograph_stay_together(tmp_path):
  for i in range(20):
    for copy in range(3):
      labelled(tmp_path, f"street{i}_jpg.rf.{copy}0f3c", seed=3 * i + copy)
  chosen = split_of(Own(splits="train:0.5,test:0.5"), tmp_path)
  of_each = [{s for n, s in chosen.items() if f"street{i}_" in n} for i in range(20)]
  assert all(len(splits) == 1 for splits in of_each)
  assert set.union(*of_each) == {"train", "test"}


def test_equal_pictures_stay_together_whatever_they_are_called(tmp_path):
  for i in range(40):
    labelled(tmp_path, f"a{i}", seed=i % 20)
  chosen = split_of(Own(splits="train:0.5,test:0.5"), tmp_path)
  assert all(chosen[f"a{i}.png"] == chosen[f"a{i + 20}.png"] for i in range(20))
  assert set(chosen.values()) == {"train", "test"}


def test_pictures_that_look_alike_stay_together():
  rows = []
  for i in range(40):
    coarse = np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((192, 144))
    small = picture.resize((128, 96))
    rows += [
      split_by_photograph.describe(f"a{i}", f"a{i}", prist_files.encode(picture)),
      split_by_photograph.describe(f"b{i}", f"b{i}", prist_files.encode(small, "JPEG")),
    ]
  chosen = split_by_photograph.assign(rows, {"train": 0.5, "test": 0.5})
  assert all(chosen[f"a{i}"] == chosen[f"b{i}"] for i in range(40))
  assert set(chosen.values()) == {"train", "test"}


def test_splits_of_the_files_count_unless_the_user_divides(tmp_path):
  for folder in ("train", "valid"):
    for i in range(4):
      labelled(tmp_path / folder, f"{folder}{i}", seed=i + 10 * (folder == "valid"))
  stated = split_of(Own(), tmp_path)
  assert stated["train/train0.png"] == "train" and stated["valid/valid0.png"] == "val"
  assert set(split_of(Own(splits="test:1"), tmp_path).values()) == {"test"}


def test_a_photograph_in_no_split_beside_others_in_one_is_refused(tmp_path):
  labelled(tmp_path / "train", "a")
  labelled(tmp_path, "b", seed=1)
  with pytest.raises(UserError, match="b.png and 0 more photographs lie in no split"):
    Own().splits(SourceFolder(tmp_path))


@pytest.mark.parametrize("text", ["train:0.8", "train:0.5,train:0.5", "a:x", "A:1", ""])
def test_splits_that_are_none_are_refused(text):
  with pytest.raises(UserError, match="--splits="):
    split_by_photograph.parse(text)


def test_a_split_that_no_photograph_falls_into_gets_one():
  rows = [split_by_photograph.Photograph(str(i), str(i), str(i)) for i in range(3)]
  shares = {"train": 0.98, "val": 0.01, "test": 0.01}
  assert sorted(split_by_photograph.assign(rows, shares).values()) == sorted(shares)


def test_fewer_photographs_than_splits_is_one_line():
  with pytest.raises(UserError, match="1 different photographs do not make 2 splits"):
    one = split_by_photograph.Photograph("a", "a", "0")
    split_by_photograph.assign([one], {"train": 0.5, "test": 0.5})


def test_names_and_form_of_the_user(tmp_path, told):
  test_find.FORMS["index_png"](tmp_path)
  (tmp_path / "labels.json").unlink()
  list_file = tmp_path.parent / f"{tmp_path.name}.txt"
  write_text(list_file, "nothing here\nhound\npuss\n")
  builder = Own(form="index_png", names=str(list_file), splits="test:1")
  good, _ = units(builder, tmp_path)
  (record,) = records(builder, tmp_path, good["test"][0])
  assert record.targets[0][0] == "nothing here"
  assert builder.options()["names"] == {"0": "nothing here", "1": "hound", "2": "puss"}


def test_a_missing_list_of_names_is_one_line(tmp_path):
  with pytest.raises(UserError, match="names.txt: no such file"):
    Own(names=str(tmp_path / "names.txt"))


def test_a_photograph_labelled_twice_is_named(tmp_path, told):
  labelled(tmp_path, "a")
  document = json.loads((tmp_path / "a.json").read_text())
  write_json(tmp_path / "copy/second.json", document | {"imagePath": "../a.png"})
  good, bad = units(Own(splits="test:1"), tmp_path)
  assert len(good["test"]) == 1
  assert bad == ["a.png:-: is labelled a second time"]


def test_a_folder_of_which_nothing_can_be_used_says_why(tmp_path):
  test_labelme_form.write(tmp_path / "a.json", image="b.jpg")
  with pytest.raises(RecordError, match="imagePath 'b.jpg': no such photograph"):
    Own().splits(SourceFolder(tmp_path))


def test_workers_get_the_builder_without_what_it_read(tmp_path, told):
  labelled(tmp_path, "a")
  builder = registry.make("own", splits="test:1")
  good, _ = units(builder, tmp_path)
  worker = pickle.loads(pickle.dumps(builder))
  assert len(pickle.dumps(builder)) < 100_000
  assert records(worker, tmp_path, good["test"][0])[0].id == "a.png/0"


def build(folder, *options):
  where = f"--src={folder}", f"--out={folder / 'out'}", "--num_workers=0"
  return command.main(["build", "own", *where, "--splits=test:1", *options])


def test_a_data_set_may_be_built_beside_its_photographs(tmp_path, told, capsys):
  labelled(tmp_path, "a")
  assert build(tmp_path) == build(tmp_path) == 0
  printed = capsys.readouterr()
  assert printed.err.count("found labelme: 1 labelme files\n") == 2
  assert printed.out.count("remove it to build it anew") == 1  # the second time


def test_labels_that_changed_are_noticed_when_it_is_built_again(tmp_path, told):
  labelled(tmp_path, "a")
  build(tmp_path)
  labelled(tmp_path, "b", seed=1)
  with pytest.raises(UserError, match="other files below --src, .*remove the folder"):
    build(tmp_path)


def test_a_link_to_its_own_folder_shows_no_photograph_twice(tmp_path):
  labelled(tmp_path, "in/a")
  (tmp_path / "in/again").symlink_to(tmp_path)
  assert list(split_of(Own(splits="test:1"), tmp_path)) == ["in/a.png"]
