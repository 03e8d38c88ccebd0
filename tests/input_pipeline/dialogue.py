"""A conversation of three rounds, and what of its row is learned."""

import numpy as np

TURNS = (
  ("user", "Which thing here tells the time?"),
  ("assistant", "The clock on the wall."),
  ("user", "And what is below it?"),
  ("assistant", "A table, and under it a cat [SEG]."),
  ("user", "Please segment the clock."),
  ("assistant", "Sure, [SEG]."),
)


def answers_of(turns):
  return [text for role, text in turns if role == "assistant"]


def supervised(row, tokenizer):
  """Text of each run of tokens with loss."""
  edges = np.flatnonzero(np.diff(row.loss_mask_L, prepend=0, append=0))
  runs = [row.tokens_L[a:b] for a, b in edges.reshape(-1, 2)]
  return [tokenizer.decode(run, where="inside") for run in runs]
