"""The offline judge: word overlap, no language model and no picture.

It is there for tests of everything around a judge, and says so wherever it is named.
Its numbers are no ratings: do not report them.
"""

import re

from miras_jax.errors import UserError
from miras_jax.judge.conversations import Conversation
from miras_jax.judge.rubric import FIRST, SECOND, TIE, Rubric
from miras_jax.judge.tasks import PAIR, Task
from miras_jax.llm.asking import Outcome

NAME = "rules"
ABOUT = "word overlap, no language model: for tests, not for ratings"
CRITERIA = (
  "progressiveness",
  "logical_coherence",
  "content_consistency",
  "target_relevance",
)
_EMPTY = frozenset(
  "a an and are at do does for have here i in is it its me my of on one or please see"
  " so that the them there this those to what where which with yes you".split()
)


class RulesJudge:
  """Scores and compares by counting words; the same from both orders."""

  name = NAME
  sees_pictures = False

  def answer(self, task: Task) -> Outcome:
    if task.kind != PAIR:
      return Outcome({"reason": ABOUT} | scores(task.shown[0]))
    first, second = (sum(scores(c).values()) for c in task.shown)
    winner = TIE if first == second else FIRST if first > second else SECOND
    return Outcome({"reason": ABOUT, "winner": winner})


def check(rubric: Rubric) -> None:
  """UserError for a rubric with other criteria: words cannot be counted for those."""
  if tuple(rubric.criteria) != CRITERIA:
    raise UserError(f"--model={NAME} knows no criteria but {', '.join(CRITERIA)}")


def scores(conversation: Conversation) -> dict[str, int]:
  """A number from 1 to 5 for each of CRITERIA."""
  users = [_words(turn.user) for turn in conversation.turns]
  answers = [_words(turn.answer) for turn in conversation.turns]
  masked = ["[SEG]" in turn.answer for turn in conversation.turns]
  known = set().union(*users, *map(_words, conversation.names))
  new, coherent = [], []
  for i, words in enumerate(answers):
    before = set().union(*answers[:i])
    fresh = answers[i] not in answers[:i]
    new.append(fresh and bool(words - before or masked[i]))
    coherent.append(fresh and bool(masked[i] or words & set().union(*users[: i + 1])))
  said = set().union(*answers)
  shares = (
    sum(new) / len(new),
    sum(coherent) / len(coherent),
    len(said & known) / len(said) if said else 0.0,
    _relevance(conversation),
  )
  levels = (1 + round(4 * share) for share in shares)
  return dict(zip(CRITERIA, levels, strict=True))


def _relevance(conversation):
  """How much of the targets is named in the answers, and IoU where it is known."""
  said = set().union(*map(_words, conversation.answers))
  shares = [iou for iou in conversation.ious if iou is not None]
  for name in conversation.names:
    if words := _words(name):
      shares.append(len(words & said) / len(words))
  return sum(shares) / len(shares) if shares else 0.0


def _words(text):
  """The words of a text that say something."""
  plain = text.replace("[SEG]", " ").replace("[OBJ]", " ").lower()
  return set(re.findall(r"\w+", plain)) - _EMPTY
