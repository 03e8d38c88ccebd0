"""`miras bench chat`: its sides say the same, its options are checked."""

import numpy as np
import pytest

from miras_jax.benchmarks import chat
from miras_jax.benchmarks import command as bench
from miras_jax.errors import UserError


class Side:
  """Answers with a number; takes turn + first seconds to the first token."""

  def __init__(self, answer, first):
    self.answer, self.first = answer, first

  def turn(self, turn, said):
    assert len(said) == turn
    return np.full((1, 2), self.answer), turn + self.first, 10.0


def args(*options):
  return chat.parse(["--turns=2", "--new=2", *options])


def test_times_are_medians_of_each_turn():
  found = chat.measure({"ours": Side(7, 1.0), "published": Side(7, 3.0)}, args())
  assert found["ours"] == [(1.0, 10.0), (2.0, 10.0)]
  assert chat.at(found, 1) == {"ours": (2.0, 10.0), "published": (4.0, 10.0)}


def test_sides_that_say_something_else_are_no_comparison():
  with pytest.raises(AssertionError, match="turn 1: ours and published say"):
    chat.measure({"ours": Side(7, 1.0), "published": Side(8, 1.0)}, args())


def test_the_last_length_holds_for_the_turns_after_it():
  assert chat.parse(["--turns=4", "--new=7,5"]).new == (7, 5, 5, 5)
  assert chat.parse(["--turns=2"]).new == chat.PRIST[:2]


@pytest.mark.parametrize(
  "option, message",
  [
    ("--new=5,one", "--new=5,one: want numbers"),
    ("--turns=0", "--turns=0 must be at least 1"),
    ("--sides=my", "no side 'my'"),
  ],
)
def test_a_wrong_option_is_one_line(option, message):
  with pytest.raises(UserError, match=message):
    bench.main(["chat", option])
