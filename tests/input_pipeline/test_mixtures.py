"""Names and weights of `config.mixture`, and the data sets that they open."""

import pytest

from input_pipeline import mixtures
from input_pipeline.builders import registry
from input_pipeline.open_mixture import open_held_out, open_mixture
from miras_jax.errors import UserError
from tests import prist_files


@pytest.fixture
def root(tmp_path):
  """Two data sets below one folder; only `mine` has a val split."""
  for name, count in (("mine", 3), ("prist", 2)):
    records = [prist_files.record() for _ in range(count)]
    prist_files.write(tmp_path / name, records, split="train")
  prist_files.write(tmp_path / "mine", [prist_files.record()], split="val")
  return tmp_path


def weights(found):
  return {part.name: part.weight for part in found}


def test_a_group_shares_its_weight_evenly():
  found = mixtures.parts({"sem_seg": 10, "vqa": 3}, {})
  assert weights(found) == {
    name: 2.0
    for name in ("ade20k", "cocostuff", "pascal_part", "paco_lvis", "mapillary")
  } | {"llava_instruct_150k": 3.0}
  assert {part.entry for part in found} == {"sem_seg", "vqa"}


def test_a_preset_is_a_name_with_the_weight_of_all_of_it():
  found = mixtures.parts({"stage2": 6, "mine": 1}, {})
  assert weights(found) == {"llava_instruct_150k": 1.0, "mine": 1.0, "prist": 5.0}


def test_the_published_stages_have_the_published_weights():
  assert mixtures.PRESETS["stage1"] == {
    "sem_seg": 9, "refer_seg": 6, "vqa": 3, "reason_seg": 1, "caption": 3, "vg": 6,
  }  # fmt: skip
  assert mixtures.PRESETS["stage2"] == {"multiturn": 10, "vqa": 2}


def test_what_is_left_out_leaves_its_weight_to_its_group():
  found = mixtures.parts({"sem_seg": 8}, {"mapillary": "none"})
  assert len(found) == 4 and {part.weight for part in found} == {2.0}


@pytest.mark.parametrize(
  "text, wanted",
  [
    ("multiturn:10,vqa:2", {"multiturn": 10.0, "vqa": 2.0}),
    ("stage2", {"multiturn": 10, "vqa": 2}),
    ("none", {}),
    ("stage3", None),
    ("vqa:much", None),
  ],
)
def test_a_mixture_in_one_value(text, wanted):
  assert mixtures.parse(text) == wanted


@pytest.mark.parametrize(
  "text, message",
  [
    ("mine:1,vqa:2,mine:3", "mixture: mine is named twice"),
    ("../mine:1", r"mixture: '../mine' is no name"),
  ],
)
def test_a_value_that_names_nothing_or_something_twice_is_refused(text, message):
  with pytest.raises(UserError, match=message):
    mixtures.parse(text)


@pytest.mark.parametrize(
  "mixture, sources, words",
  [
    ({"vqa": 0}, {}, "mixture.vqa=0: want a weight, a positive number"),
    ({"vqa": float("inf")}, {}, "mixture.vqa=inf"),
    ({"vqa": "much"}, {}, "mixture.vqa='much'"),
    ({"vqa": True}, {}, "mixture.vqa=True"),
    ({"../vqa": 1}, {}, "'../vqa' is no name"),
    ({}, {"mine": ""}, "sources.mine='': want a folder"),
    (
      {},
      {"vqa": "DIR"},
      "vqa is a group of data sets; name one of llava_instruct_150k",
    ),
  ],
)
def test_what_no_mixture_can_hold_is_one_line(mixture, sources, words):
  with pytest.raises(UserError, match=words):
    mixtures.check(mixture, sources)


@pytest.mark.parametrize(
  "mixture, sources, words",
  [
    (
      {"refcoco": 1, "refer_seg": 6},
      {},
      "refcoco is drawn for refcoco and for refer_s",
    ),
    ({"vqa": 1}, {"llava_instruct_150k": "none"}, "mixture.vqa: every data set of it"),
  ],
)
def test_a_mixture_that_contradicts_itself_is_one_line(mixture, sources, words):
  with pytest.raises(UserError, match=words):
    mixtures.parts(mixture, sources)


def test_data_sets_are_found_below_the_folder_or_where_it_is_said(
  root, tmp_path_factory
):
  other = tmp_path_factory.mktemp("other")
  prist_files.write(other, [prist_files.record()] * 5, split="train")
  where = ({"multiturn": 3, "mine": 1, "more": 2}, {"more": str(other)}, str(root))
  found = open_mixture(*where, "train")
  assert found.names == ("mine", "more", "prist")
  assert [len(source) for source in found.sources] == [3, 5, 2]
  assert found.weights == (1.0, 2.0, 3.0)
  assert [found.entry_names[found.entry_of(i)] for i in (0, 3, 8)] == [
    "mine", "more", "multiturn",
  ]  # fmt: skip
  assert found.load(8).id.startswith("prist/train/")


def test_a_limit_holds_for_each_data_set(root):
  found = open_mixture({"multiturn": 3, "mine": 1}, {}, str(root), "train", limit=1)
  assert [len(source) for source in found.sources] == [1, 1]


@pytest.mark.parametrize(
  "mixture, words",
  [
    ({"refcocos": 1}, "mixture.refcocos: .* did you mean refcoco.* there are sem_seg"),
    ({"mien": 1}, "did you mean mine.* every folder below data.dir .mine, prist."),
    ({"vg": 1}, "mixture.vg: .* is not there; build it with miras data build vg"
                " --src=... --out=.* leave it out with --config.sources.vg=none"),
  ],
)  # fmt: skip
def test_a_data_set_that_is_not_there_says_what_to_do(root, mixture, words):
  with pytest.raises(UserError, match=words):
    open_mixture(mixture, {}, str(root), "train")


def test_without_a_folder_there_is_no_data_set():
  with pytest.raises(UserError, match="name the folder below which the data sets"):
    open_mixture({"vqa": 1}, {}, "", "train")


def test_held_out_is_what_has_the_split_and_the_rest_is_said(root):
  mixture = {"multiturn": 3, "mine": 1}
  found, lacking = open_held_out(mixture, {}, str(root), "val")
  assert found.names == ("mine",) and found.entry_names == ("mine", "multiturn")
  assert len(lacking) == 1 and lacking[0].startswith("prist: ")


def test_nothing_is_held_out_where_no_data_set_has_the_split(root):
  found, lacking = open_held_out({"multiturn": 1}, {}, str(root), "val")
  assert found is None and len(lacking) == 1


@pytest.mark.parametrize("name", sorted(registry.BUILDERS))
def test_a_built_data_set_is_found_by_the_name_it_was_built_with(name, tmp_path):
  card = registry.make(name).card
  with pytest.raises(UserError, match="is not there") as error:
    open_mixture({name: 1.0}, {}, str(tmp_path), "train")
  assert str(tmp_path / card.name) in str(error.value)


def test_a_data_set_of_a_mixture_that_cannot_be_opened_is_named(tmp_path):
  prist_files.write(tmp_path / "a", [], split="train")
  for sources, message in (
    ({"mine": str(tmp_path / "a")}, "^mine/train.json:-: holds an empty list"),
    ({"mine": str(tmp_path / "b")}, "^mixture.mine: .*/b: no such data folder"),
  ):
    with pytest.raises(UserError, match=message):
      open_mixture({"mine": 1}, sources, "", "train")
