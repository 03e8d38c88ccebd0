"""Words of sides, places and colours, and files that replace them."""

import json

import pytest

from input_pipeline import words as words_lib
from miras_jax.errors import UserError
from tests.shared_data import DATA, needs_data

WORDS = words_lib.load()


@pytest.mark.parametrize(
  "text",
  [
    "The LEFT one", "left-hand side", "leftmost", "on the right", "turn clockwise",
    "the west wing", "links", "der rechte Stuhl", "à gauche", "la derecha", "左边的人",
    "What does the sign say?", "5 o'clock",
  ],
)  # fmt: skip
def test_a_text_that_tells_a_side_is_known_in_every_language(text):
  assert WORDS.tells_side(text)


@pytest.mark.parametrize(
  "text", ["a bright cup", "Where is it?", "cleft", "Wo ist es?"]
)
def test_a_text_without_a_side_is_known(text):
  assert not WORDS.tells_side(text)


def test_places_numbers_and_sizes_tell_of_the_whole_picture():
  for text in ("in the corner", "the largest one", "How many?", "three cups", "oben"):
    assert WORDS.tells_place(text) and not WORDS.tells_side(text)
  assert WORDS.tells_place("the left one") and not WORDS.tells_place("the stop sign")
  assert not WORDS.tells_place("The dog under the table.")


def test_colours_are_found_by_name():
  assert WORDS.colours_of("a Red and rote car, grün") == ["red", "green"]
  assert WORDS.tells_colour("What colour?") and not WORDS.tells_colour("a hundred")
  assert WORDS.tells_light("a white car") and not WORDS.tells_light("a red car")


def test_a_file_replaces_the_words(tmp_path):
  path = tmp_path / "words.json"
  path.write_text(json.dumps({"left": ["vasen*"], "colours": {"red": ["punainen"]}}))
  words = words_lib.load(str(path))
  assert words.tells_side("vasemmalla") is words.tells_side("left") is False
  assert words.tells_side("Vasen") and words.colours_of("punainen") == ["red"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[]", "want an object with left"),
    ('{"colours": {}, "lefts": []}', "unknown list 'lefts'; there are left, right"),
    ('{"colours": {"mauve": []}}', "unknown list 'mauve'"),
    ('{"colours": {}, "left": ["*"]}', "left: want a list of words"),
    ('{"colours": {}, "left": "links"}', "left: want a list of words"),
    ("{", "is not valid JSON"),
  ],
)
def test_an_unfit_file_is_one_line(tmp_path, text, message):
  path = tmp_path / "words.json"
  path.write_text(text)
  with pytest.raises(UserError, match=f"words.json: .*{message}"):
    words_lib.load(str(path))


@needs_data
def test_most_published_conversations_leave_room_for_a_change():
  records = json.loads((DATA / "prist_official/test.json").read_text())
  texts = [f"{r['dialogue']} {r['focus']}" for r in records]
  tests = (WORDS.tells_side, WORDS.tells_place, WORDS.tells_colour, WORDS.tells_light)
  assert [sum(not tells(t) for t in texts) for tells in tests] == [185, 311, 392, 462]
