"""PRIST-X is scored by what each of its masks is; the ids of built records say it."""

import numpy as np
import pytest

from input_pipeline import prist_x
from input_pipeline.records import SegConversation
from miras_jax.evaluation import kinds, metrics

TALK = (("new several", 8), ("remove one", 4), ("part part", 0), ("new none", 0))


def record(name, count):
  return SegConversation(
    id=name, source="", image=b"", turns=(), targets=(("cup", {}),) * count
  )


def table(overlaps):
  """Of targets of 8 pixels, empty ones of none, and predictions of as many."""
  true = [8 if n is not None else 0 for n in overlaps]
  return {
    "image": np.array(["a"] * len(true)),
    "inter": np.array([n or 0 for n in overlaps]),
    "pred": np.array(true),
    "true": np.array(true),
    "biou": np.zeros(len(true)),
  }


def test_each_kind_of_mask_has_a_score_of_its_own():
  name = f"x/0/0 ({', '.join(kind for kind, _ in TALK)})"
  rows = [8, 4, 0, None, 8]  # overlaps; the last one is of another data set
  records = [record(name, 4), record("val/3", 1)]
  found = kinds.measures(table(rows), records, resamples=9)
  ciou = {k: m["ciou"]["value"] for k, m in found["edit"].items()}
  assert ciou == {"new": 1.0, "remove": pytest.approx(4 / 12), "part": 0.0}
  giou = {k: (m["giou"]["value"], m["giou"]["n"]) for k, m in found["of"].items()}
  assert giou == {
    "one": (pytest.approx(4 / 12), 1),
    "several": (1.0, 1),
    "part": (0.0, 1),
    "none": (1.0, 1),
  }


@pytest.mark.parametrize(
  "name", ["val/3", "the cup (left, red)", "a (new one, old one)", "b (new)", "c ()"]
)
def test_ids_of_other_data_say_nothing_of_their_masks(name):
  assert prist_x.kinds_of(name) == []
  assert kinds.measures(table([8]), [record(name, 1)]) == {}


def test_a_record_cut_to_fewer_masks_is_not_guessed_at():
  found = kinds.columns([record("0/0 (new one, add several)", 1)])
  assert found == {"edit": [""], "of": [""]}


def test_the_metrics_take_the_same_rows_as_the_whole():
  rows, name = table([8, 4]), "0/0 (new one, same one)"
  whole = metrics.mask_metrics(rows, resamples=9)["ciou"]
  found = kinds.measures(rows, [record(name, 2)], resamples=9)["of"]["one"]["ciou"]
  assert found == whole
