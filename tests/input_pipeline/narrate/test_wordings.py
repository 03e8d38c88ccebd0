"""Files of wordings: any language, checked when they are read."""

import json
import pathlib
import re

import pytest

from input_pipeline.narrate.wordings import ENGLISH, FIELDS, Wordings
from input_pipeline.narrate.write import write
from miras_jax.errors import UserError
from tests.input_pipeline.narrate.drawn import street

GERMAN = pathlib.Path(__file__).parent / "de.json"


def english(path, change):
  data = json.loads(ENGLISH.read_text())
  change(data)
  path.write_text(json.dumps(data))
  return path


def test_another_language_is_another_file():
  words = Wordings.load(GERMAN)
  photo, image = street(complete=frozenset(["scarf"]))
  talks = write(photo, image, "k", wordings=words, per_photo=30)
  names = {name for _, targets in talks for name, _ in targets}
  assert {"Hut", "Mantel", "Tasche", "Schuhe", ""} <= names
  assert names & {"Schuhe links", "Schuhe rechts"}
  said = " ".join(text for turns, _ in talks for _, text in turns)
  spoken = set(re.findall(r"[a-z]+", said.lower()))
  assert not spoken & {"the", "one", "mark", "hat", "coat", "shoes", "left", "scarf"}


@pytest.mark.parametrize(
  "change, fault",
  [
    (lambda d: d["say"].pop("guess"), "say.guess is missing"),
    (lambda d: d["say"].update(mask=["Here."]), r"say.mask\[0\]: 'Here.' has to hold"),
    (lambda d: d["say"].update(mask=["[SEG]{seg}"]), "holds a control token"),
    (lambda d: d["say"].update(yes=["Yes {it}."]), "has to hold no field"),
    (lambda d: d["say"].update(yes=["Yes {."]), r"say.yes\[0\]"),
    (lambda d: d["say"].update(maybe=["Perhaps."]), "say.maybe is unknown"),
    (lambda d: d["colours"].pop("red"), "colours.red is missing"),
    (lambda d: d.pop("places"), '"places" is missing'),
    (lambda d: d["joins"].pop("and"), "joins.and is missing"),
    (lambda d: d.update(numbers=[]), "numbers is missing"),
    (lambda d: d["names"].update(hat={"few": "x"}), "names.hat.few is unknown"),
    (lambda d: d["names"].update(hat=3), "names.hat is neither"),
  ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, change, fault):
  path = english(tmp_path / "own.json", change)
  with pytest.raises(UserError, match=fault) as error:
    Wordings.load(path)
  assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(UserError, match="no such file of wordings"):
    Wordings.load(tmp_path / "none.json")


def test_names_can_be_words_or_have_forms(tmp_path):
  names = {"cls_07": "hat", "foot": {"many": "feet", "the": "this foot"}}
  words = Wordings.load(english(tmp_path / "own.json", lambda d: d.update(names=names)))
  assert (words.one("cls_07"), words.the("cls_07")) == ("hat", "the hat")
  assert (words.one("foot"), words.the("foot"), words.many("foot")) == (
    "foot", "this foot", "feet",
  )  # fmt: skip
  assert (words.one("fire_truck"), words.many("fire_truck")) == (
    "fire truck", "fire trucks",
  )  # fmt: skip


def test_the_english_file_has_a_choice_of_wordings_for_what_is_said_most():
  say = json.loads(ENGLISH.read_text())["say"]
  assert say.keys() == FIELDS.keys()
  assert all(len(say[k]) >= 2 for k in ("look", "which", "guess", "request", "seek"))
