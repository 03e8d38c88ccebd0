"""`Conversation` keeps the turns about one image and answers with text and masks.

Masks come at the image's own size.

B rows, T prompt tokens, H W image rows and columns, h w low-resolution mask sides.
"""

from typing import NamedTuple

import jax
import numpy as np

from input_pipeline import batch_table, examples
from input_pipeline.conversation import encode_prompt
from miras_jax.models.sam_decoder import postprocess

THRESHOLD = 0.0  # a mask logit above it is inside, as SAM's mask_threshold
ANSWER_KEYS = ("tokens", "num_tokens", "ended", "num_seg", "seg_valid", "mask_logits")


def prompt_row(turns, tokenizer, data, *, names=None) -> tuple[dict, int]:
  """Turns that end with a question -> (prompt arrays (T,), rounds that did not fit).

  `names`: target names of the [SEG] in the answers so far, where these are gold.
  Raises ConversationError when even the last question does not fit.
  """
  row = encode_prompt(turns, tokenizer, names=names, **data.text_options())
  # Old answers may hold more [SEG] than a training row: a prompt needs none of them.
  bare = row._replace(seg_pos_K=row.seg_pos_K[:0], obj_pos_K=row.obj_pos_K[:0])
  padded = examples.pad_row(bare, tokenizer, data)
  return {k: padded[k] for k in batch_table.prompt_names()}, row.dropped_rounds


class Answer(NamedTuple):
  """One generated answer. `logits` (K, h, w) has one mask per [SEG] up to the model's
  limit; `num_seg` counts all [SEG]."""

  text: str
  num_seg: int = 0
  logits: np.ndarray = np.zeros((0, 1, 1), np.float32)


def read_answers(out, tokenizer) -> list[Answer]:
  """Result of `Generator.generate` -> [Answer] of every row, on the host."""
  out = jax.device_get({k: out[k] for k in ANSWER_KEYS})
  answers = []
  for b, count in enumerate(out["num_tokens"] - out["ended"]):
    tokens = out["tokens"][b, :count]
    kept = out["seg_valid"][b] > 0
    text = tokenizer.decode(tokens).strip()
    answers.append(Answer(text, int(out["num_seg"][b]), out["mask_logits"][b][kept]))
  return answers


def full_size(logits_KHW, views, image_size, original_hw=None) -> np.ndarray:
  """Low-resolution logits -> bool masks (K, H, W) at the image's original size.

  `views` is what `make_views` gave for the image; another `original_hw` stretches the
  image part of the canvas to that size.
  """
  original_hw = views["original_hw"] if original_hw is None else original_hw
  if not len(logits_KHW):
    return np.zeros((0, *original_hw), bool)
  full = postprocess(logits_KHW, views["valid_hw"], original_hw, image_size)
  return full > THRESHOLD


class Reply(NamedTuple):
  """Text, and one bool mask (H, W) for each [SEG] in it; `dropped_rounds` is how many
  of the oldest rounds the model no longer saw."""

  text: str
  masks_KHW: np.ndarray
  num_seg: int
  dropped_rounds: int


class Conversation:
  """A conversation about one image: its encoding is made once, its turns are kept."""

  def __init__(self, loaded, generator, image):
    """`image`: encoded bytes. Raises ImageError when they do not decode."""
    self._loaded, self._generator = loaded, generator
    self._views = examples.make_views(image, loaded.data)
    batch = {k: v[None] for k, v in self._views.items()}
    self._encoded = generator.encode(batch)
    self.turns = []

  def reset(self):
    """Forgets the turns, keeps the image."""
    self.turns = []

  def ask(self, text):
    """Answers one user turn -> Reply; both are remembered.

    Raises ConversationError when the text alone does not fit; nothing is remembered.
    """
    loaded = self._loaded
    asked = [*self.turns, ("user", text)]
    row, dropped = prompt_row(asked, loaded.tokenizer, loaded.data)
    batch = {k: v[None] for k, v in row.items()}
    out = self._generator.generate(batch, self._encoded)
    answer = read_answers(out, loaded.tokenizer)[0]
    self.turns = [*asked, ("assistant", answer.text)]
    masks = full_size(answer.logits, self._views, loaded.data.sam_size)
    return Reply(answer.text, masks, answer.num_seg, dropped)
