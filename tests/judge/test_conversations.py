"""Predictions that are read, and those that are named instead."""

import pytest

from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from miras_jax.judge import conversations, tasks
from miras_jax.judge.conversations import in_common
from tests.judge import predictions


def read(tmp_path, lines, name="a.jsonl"):
  return conversations.read(predictions.write(tmp_path / name, lines))


def test_line_gives_turns_targets_and_masks(tmp_path):
  one = read(tmp_path, [predictions.line(0)]).conversations["c0"]
  assert one.turns[1].user == "Mark the left one."
  assert (one.names, one.ious, one.image) == (("red cup",), (0.8,), "0.png")
  assert one.masks[0]["size"] == list(predictions.SIZE)


def test_line_of_texts_alone_is_enough(tmp_path):
  line = {"id": "x", "turns": [{"user": "a", "answer": ""}]}
  one = read(tmp_path, [line]).conversations["x"]
  assert (one.answers, one.masks) == (("",), ())


@pytest.mark.parametrize(
  "text, said",
  [
    ('{"id": "a"', "a.jsonl:1: is no JSON: "),
    ("[1]", "1: is a JSON list, want an object"),
    ("[" * 100_000, "1: is nested too deeply"),
    ('{"turns": [{"user": "a", "answer": "b"}]}', "1: id is missing, want a text"),
    ('{"id": "a", "turns": []}', "1: turns is no list of 1 to 256"),
    ('{"id": "a", "turns": [{"user": "a"}]}', r"1: turns\[0\].answer is missing"),
    ('{"id": "a", "turns": [3]}', r"1: turns\[0\] is no object"),
    ('{"id":"a","turns":[{"user":"a","answer":""}],"targets":[1]}', "1: targets is"),
    ("", "a.jsonl: holds no conversation"),
  ],
)  # fmt: skip
def test_line_that_is_none_is_named(tmp_path, text, said):
  (tmp_path / "a.jsonl").write_text(text + "\n")
  with pytest.raises(UserError, match=said):
    conversations.read(tmp_path / "a.jsonl")


def test_a_name_without_an_end_does_not_fill_the_screen(tmp_path):
  lines = [predictions.line(0) | {"id": "x" * 1_000_000}] * 2
  with pytest.raises(RecordError, match="1,000,000 letters.*is that of line 1") as told:
    conversations.read(predictions.write(tmp_path / "p.jsonl", lines))
  assert len(str(told.value)) < 1000


def test_id_given_twice_is_named(tmp_path):
  with pytest.raises(RecordError, match="2: id 'c0' is that of line 1, too"):
    read(tmp_path, [predictions.line(0), predictions.line(0)])


def test_missing_ids_are_counted_and_named(tmp_path):
  lines = [predictions.line(i) for i in range(4)]
  one, other = read(tmp_path, lines), read(tmp_path, lines[1:3], "b.jsonl")
  with pytest.raises(
    UserError, match="b.jsonl: 2 of 4 conv.* missing, e.g. 'c0'; --al"
  ):
    in_common([one, other])
  ids, notes = in_common([one, other], allow_missing=True)
  assert (ids, len(notes)) == (["c1", "c2"], 1)


def test_other_questions_under_one_id_are_named(tmp_path):
  asked = predictions.line(1)
  asked["turns"][0]["user"] = "Is there a dog?"
  one = read(tmp_path, [predictions.line(0), predictions.line(1)])
  other = read(tmp_path, [predictions.line(0), asked], "b.jsonl")
  with pytest.raises(UserError, match="1 of 2 conversations have other questions"):
    in_common([one, other])


def test_predictions_of_another_data_set_are_said(tmp_path):
  one = read(tmp_path, [predictions.line(0)])
  other = read(tmp_path, [predictions.line(1)], "b.jsonl")
  with pytest.raises(UserError, match="predictions of another data set"):
    in_common([one, other], allow_missing=True)


def test_gold_needs_gold(tmp_path):
  line = predictions.line(0)
  del line["turns"][0]["gold"]
  with pytest.raises(UserError, match="1 conversations have turns without `gold`"):
    conversations.gold_of(read(tmp_path, [line]))


def test_gold_answers_with_the_true_masks(tmp_path):
  line = predictions.line(0)
  line["targets"][0]["mask"] = None
  gold = conversations.gold_of(read(tmp_path, [line])).conversations["c0"]
  assert gold.answers == ("Yes, two.", "Here is the red cup[SEG].")
  assert gold.masks[0] == line["targets"][0]["true"]


def test_shuffled_answer_comes_from_another_image(tmp_path):
  system = read(tmp_path, [predictions.line(i) for i in range(4)])
  ids = list(system.conversations)
  probes = tasks.probes(system, ids, 4, seed=0, pictures=False)
  assert [p.probe for p in probes] == [tasks.SHUFFLED] * 4
  for probe in probes:
    (donor,) = (
      c for c in system.conversations.values() if c.answers == probe.shown[0].answers
    )
    assert donor.image != probe.image


def test_one_conversation_has_nothing_to_shuffle(tmp_path):
  system = read(tmp_path, [predictions.line(0)])
  assert tasks.probes(system, ["c0"], 5, seed=0, pictures=False) == []


def test_every_pair_is_asked_in_both_orders(tmp_path):
  systems = [read(tmp_path, [predictions.line(0)], f"{n}.jsonl") for n in "abc"]
  found = tasks.pairs(systems, ["c0"])
  names = ["".join(s[-7] for s in task.systems) for task in found]
  assert names == ["ab", "ba", "ac", "ca", "bc", "cb"]


def test_targets_are_those_of_the_last_turn_with_a_mask(tmp_path):
  """A mask of an earlier turn is not what is marked in the end."""
  last = predictions.line(0)["targets"][0]
  first = last | {"turn": 0, "name": "cups", "iou": 0.1}
  path = predictions.write(
    tmp_path / "p.jsonl", [predictions.line(0, targets=[first, last])]
  )
  (one,) = conversations.read(path).conversations.values()
  assert one.names == (last["name"],) and one.ious == (last["iou"],)
  assert len(one.masks) == len(one.true_masks) == 1


def test_the_folder_of_an_evaluation_stands_for_its_predictions(tmp_path):
  (tmp_path / "report").mkdir()
  predictions.write(tmp_path / "report/predictions.jsonl", [predictions.line(0)])
  found = conversations.read(tmp_path / "report")
  assert found.name == str(tmp_path / "report") and len(found.conversations) == 1
