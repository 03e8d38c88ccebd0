"""The guesser that reads one turn and no picture."""

import random

from miras_jax.data.construct import guesser
from miras_jax.data.construct.drafts import Draft

NAMES = ("kettle", "lamp", "book", "plate", "drum")
HINTS = {"kettle": "boils", "lamp": "shines", "book": "opens", "plate": "breaks",
         "drum": "sounds"}  # fmt: skip


def talks(count, leaks):
  """Conversations in which every `leaks`-th has a turn that only its focus fits."""
  rng, found = random.Random(3), []
  for k in range(count):
    names = rng.sample(NAMES, len(NAMES))
    hint = HINTS[names[0]] if leaks and k % leaks == 0 else rng.choice(["lies", "is"])
    said = f"Which of them {hint} in the {rng.choice(['upper', 'lower'])} half?"
    turns = (("user", said), ("assistant", "Two."), ("user", "Mark it."))
    turns += (("assistant", f"The {names[0]}: [SEG]."),)
    found.append(Draft(f"{k}.png", None, None, turns, names[0], "", None, tuple(names)))
  return found


def test_words_that_go_with_a_focus_are_learnt_from_other_photographs():
  assert guesser.score(guesser.guess(talks(300, 1))).accuracy > 0.95
  assert guesser.score(guesser.guess(talks(300, 0))).passes


def test_what_is_given_away_is_rejected_until_the_guesser_is_no_better_than_allowed():
  drafts = talks(300, 2)
  out, before, after = guesser.prune(drafts)
  leaking = {i for i in range(300) if i % 2 == 0}
  assert before.accuracy > 0.5 and after.passes
  assert len(out) < 160 and len(leaking & set(out)) > 0.9 * len(out)
