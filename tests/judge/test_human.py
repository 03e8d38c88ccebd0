"""Ratings by people: a CSV by hand, and what is wrong with one."""

import json

import pytest

from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from miras_jax.judge import conversations, human, rubric
from miras_jax.judge.command import main
from tests.judge import predictions

RUBRIC = rubric.read()
HEAD = "rater,id,question,value\n"


@pytest.fixture
def systems(tmp_path):
  lines = [predictions.line(i) for i in range(3)]
  path = predictions.write(tmp_path / "a.jsonl", lines)
  one = conversations.read(path)
  return [one, conversations.gold_of(one)]


def read(tmp_path, systems, text):
  path = tmp_path / "r.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return human.read(path, None, systems, RUBRIC)


def test_ratings_by_hand(tmp_path, systems):
  name = systems[0].name
  text = (
    f"rater,id,question,value,system\nAnn,c0,progressiveness,4,\nAnn,c1,winner,{name}"
  )
  text += ",\nAnn,c2,winner,gold,\nAnn,c2,target_relevance,1,gold\n"
  found = read(tmp_path, systems, text)
  assert [(r.question, r.systems, r.value) for r in found] == [
    ("progressiveness", (name,), 4),
    ("winner", (name, "gold"), 1),
    ("winner", (name, "gold"), -1),
    ("target_relevance", ("gold",), 1),
  ]
  assert {r.rater for r in found} == {"human:Ann"}
  assert found[0].image == "0.png"


@pytest.mark.parametrize(
  "text, said",
  [
    ("", "holds no ratings"),
    ("rater,id,value\nA,c0,1\n", "lacks the column question"),
    ("rater,question,value\nA,winner,1\n", "lacks the column item .of a page. or id"),
    ("rater,item,question,value\nA,i0001,winner,tie\n", "needs .*page_key.json"),
    (HEAD + "A,c0,progress,1\n", "r.csv:2: question 'progress' .* 'progressiveness'"),
    (HEAD + "A,c0,progressiveness,6\n", "r.csv:2: value '6', want a whole number"),
    (HEAD + "A,c9,progressiveness,1\n", "r.csv:2: 'c9' is no conversation of"),
    (HEAD + "A,c0,winner,first\n", "r.csv:2: winner 'first', want one of"),
    (HEAD + " ,c0,winner,tie\n", "r.csv:2: rater has 0 letters"),
    (HEAD + "A,c0,winner\n", "r.csv:2: has another number of columns"),
    (HEAD + "A,c0,winner,tie\n" * 2, "r.csv:3: rates what row 2 rates"),
    (HEAD.replace(",", ";") + "A;c0;winner;tie\n", "columns are parted by commas"),
    ("rater,id,question,value,value\nA,c0,winner,tie,tie\n", "two columns 'value'"),
    (HEAD + "A\u202e\x1b[31m,c0,winner,tie\n", "holds a character that cannot be"),
    (b"\xff\xfe\x00", "is no CSV in UTF-8"),
  ],
)
def test_csv_that_makes_no_sense_is_named(tmp_path, systems, text, said):
  with pytest.raises((UserError, RecordError), match=said):
    read(tmp_path, systems, text)


def test_agreement_of_judge_and_people(tmp_path, systems):
  """Ann says what the judge says, Bob the opposite."""
  options = [f"--predictions={systems[0].name}", "--model=rules", "--probes=0"]
  main([*options, f"--out={tmp_path / 'first'}"])
  lines = (tmp_path / "first/scores.jsonl").read_text().splitlines()
  rows = HEAD
  for i, line in enumerate(map(json.loads, lines)):
    level = line["content_consistency"] if i else 1  # else all would be equal
    rows += f"Ann,{line['id']},content_consistency,{level}\n"
    rows += f"Bob,{line['id']},content_consistency,{6 - level}\n"
  (tmp_path / "people.csv").write_text(rows)
  out = tmp_path / "second"
  main([*options, f"--human={tmp_path / 'people.csv'}", f"--out={out}"])
  result = json.loads((out / "judge.json").read_text())
  found = result["agreement"]["content_consistency"]
  assert found["alpha"]["humans"]["value"] < 0 < found["alpha"]["humans"]["n"]
  assert found["alpha"]["all"]["raters"] == 3
  pairs = [(k["a"], k["b"]) for k in found["kappa"]]
  assert pairs == [
    ("rules", "human:Ann"), ("rules", "human:Bob"), ("human:Ann", "human:Bob"),
  ]  # fmt: skip
  assert list(result["humans"]) == ["Ann", "Bob"]
