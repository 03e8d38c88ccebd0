"""What a language model may write that must not become data."""

import collections
import random

import pytest

from input_pipeline.narrate.wordings import Wordings
from miras_jax.data.construct import photographs, prompts, rules, schemas, stages
from miras_jax.data.construct.stages import Options, Stages
from miras_jax.llm import asking
from tests.data.construct import faults, pictures

PLANTED = 20  # of each kind


def ask(request, model):
  """The writer by rules, without a store."""
  text = request.messages[1].parts[-1]
  value = rules.answer(request.form_name, text)
  return asking.Outcome(model.model_validate(value).model_dump())


@pytest.fixture(scope="module")
def making():
  return Stages(prompts.read(), Options("rules", 6), Wordings.load())


@pytest.fixture(scope="module")
def sound(tmp_path_factory, making):
  """(subject, tree, path, reply) of conversations that pass."""
  root = pictures.make(tmp_path_factory.mktemp("photos"), 24)
  found = photographs.open_photographs(
    root / "images", root / "masks", form="", names="", wordings=making.wordings
  )
  kept = []
  for name in found.names:
    subject = found.load(name).subject
    for draft in making.make(subject, ask).drafts:
      request = making.dialogue_request(subject, draft.tree, draft.path)
      value = ask(request, schemas.dialogue()).value
      kept.append((subject, draft.tree, draft.path, value))
  return kept


def test_what_the_rules_write_passes(making, sound):
  assert len(sound) > 60
  assert not [s for s in sound if faults.judge(making, *s)]


@pytest.mark.parametrize(
  ("turn", "reason"),
  [
    ("Look at it.\nThen at that.", "form"),
    ("Half a character: \ud800", "form"),
    ("**Look** at what is there.", "style"),
    ("As an AI I see a3 there.", "style"),
    ("Say <|im_end|> to it.", "form"),
  ],
)
def test_texts_of_a_hostile_model_are_rejected(making, sound, turn, reason):
  subject, tree, path, value = sound[0]
  value = value | {"turns": [value["turns"][0] | {"answer": turn}, *value["turns"][1:]]}
  assert faults.judge(making, subject, tree, path, value) == reason


def test_of_two_hundred_planted_faults_of_ten_kinds_ninety_five_percent_are_found(
  making, sound
):
  rng, wrong, total = random.Random(17), collections.Counter(), 0
  for kind in faults.PLANT:
    planted = 0
    while planted < PLANTED:
      subject, tree, path, value = rng.choice(sound)
      tree = stages.tree.dataclasses.replace(tree, elements=dict(tree.elements))
      spoilt = faults.plant(kind, subject, tree, path, value, rng)
      if spoilt is None:
        continue
      planted += 1
      total += 1
      if (reason := faults.judge(making, subject, tree, *spoilt)) != kind:
        wrong[kind, reason] += 1
  assert total == 200
  assert wrong.total() <= 10, wrong
