import pytest

from miras_jax.evaluation.report import choose, outcomes
from tests.evaluation.report.cases import box, line, target

KNOWN = [
  target(box(0, 1), box(0, 10), "cup"),
  target(box(0, 1), box(12, 20), "plate"),
  target(box(0, 1), box(0, 30), "table"),
]


@pytest.mark.parametrize(
  "mask, kind, instead",
  [
    (box(0, 8), "right", None),
    (box(0, 4), "wrong extent", None),
    (box(12, 19), "wrong object", "plate"),
    (box(0, 29), "wrong object", "table"),  # what the target lies in
    (box(30, 32), "wrong object", None),  # what nobody annotated
    (box(0, 0), "missing", None),
  ],
)
def test_mask_of_the_cup_becomes(mask, kind, instead):
  found = outcomes.classify(mask, box(0, 10), KNOWN)
  assert (found.kind, found.instead) == (kind, instead)


def test_part_of_the_target_that_is_no_annotated_one_is_of_wrong_extent():
  assert outcomes.classify(box(0, 12), box(0, 30), KNOWN[1:]).kind == "wrong extent"


def test_mask_where_nothing_is_due_is_extra():
  assert outcomes.classify(box(3, 5), box(0, 0), KNOWN).kind == "extra"
  assert outcomes.classify(box(0, 0), box(0, 0), KNOWN).kind == "right"


def test_another_annotation_of_the_target_is_no_other_object():
  again = [target(box(0, 1), box(1, 30), "the table again")]
  assert outcomes.classify(box(1, 11), box(0, 30), again).kind == "wrong extent"


def test_other_targets_are_those_of_any_conversation_about_the_image():
  lines = [
    line(0, target(box(20, 30), box(0, 10)), image="a"),
    line(1, target(box(20, 30), box(20, 30), "plate"), image="a"),
    line(2, target(box(20, 30), box(0, 10)), image="b"),
  ]
  found = [row.outcomes[0] for row in outcomes.survey(lines)]
  assert [x.kind for x in found] == ["wrong object", "right", "wrong object"]
  assert [x.instead for x in found] == ["plate", None, None]


def test_seg_that_was_not_due_is_extra():
  shown = line(0)
  shown["turns"][0]["num_seg"] = 3
  (row,) = outcomes.survey([shown])
  assert [x.kind for x in row.outcomes] == ["right", "extra", "extra"]


def test_score_leaves_empty_targets_out():
  empty = target(box(0, 0), box(0, 0), "", index=1)
  (row,) = outcomes.survey([line(0, target(box(0, 8), box(0, 10)), empty)])
  assert row.score == pytest.approx(0.8)
  (row,) = outcomes.survey([line(0, empty)])
  assert row.score is None


def rows_of(widths, image=None):
  """Conversations whose IoU with a target of 20 columns is width / 20."""
  return outcomes.survey(
    [line(i, target(box(0, w), box(0, 20)), image=image) for i, w in enumerate(widths)]
  )


def test_best_median_and_worst_are_what_they_say():
  groups = choose.conversations(rows_of([9, 20, 1, 8, 10]), 4)
  scores = {name: [row.score for row in rows] for name, rows in groups.items()}
  assert scores["best"] == [1.0] and scores["worst"] == [0.05]
  assert scores["median"] == [0.45]
  assert len(scores["random"]) == 1


def test_no_conversation_is_shown_twice():
  groups = choose.conversations(rows_of(range(1, 20)), 16)
  numbers = [row.number for rows in groups.values() for row in rows]
  assert len(numbers) == len(set(numbers)) == 16


def test_fewer_conversations_than_asked_for_are_all_shown():
  groups = choose.conversations(rows_of([1, 5, 9], image="a"), 16)
  assert sum(len(rows) for rows in groups.values()) == 3


def test_group_shows_another_image_each_time_while_it_can():
  rows = outcomes.survey(
    [line(i, target(box(0, 20 - i), box(0, 20)), image="ab"[i > 3]) for i in range(9)]
  )
  best = choose.conversations(rows, 8)["best"]
  assert [row.image for row in best] == ["a", "b"]


def test_each_kind_of_failure_has_examples():
  lines = [line(i, target(box(0, 4), box(0, 10))) for i in range(9)]
  lines += [line(9, target(box(0, 0), box(0, 10))), line(10)]
  found = choose.failures(outcomes.survey(lines))
  assert {kind: len(pairs) for kind, pairs in found.items()} == {
    "wrong extent": choose.PER_FAILURE,
    "missing": 1,
  }
