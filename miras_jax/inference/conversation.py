"""`Conversation` keeps the turns about one image and answers with text and masks.

Masks come at the image's own size.

T prompt tokens, H W image rows and columns, h w low-resolution mask sides.
"""

from typing import NamedTuple

import jax
import numpy as np

from input_pipeline import examples
from input_pipeline.conversation import encode_prompt
from miras_jax.models.sam_decoder import postprocess

THRESHOLD = 0.0  # a mask logit above it is inside, as SAM's mask_threshold
ANSWER_KEYS = ("tokens", "num_tokens", "ended", "num_seg", "seg_valid", "mask_logits")


class Prompt(NamedTuple):
  """A conversation up to where an answer begins: `tokens` and `image_slot`, both (T,)
  int32. The oldest `dropped_rounds` did not fit."""

  tokens: np.ndarray
  image_slot: np.ndarray
  dropped_rounds: int = 0


def prompt_of(turns, tokenizer, data, *, names=None) -> Prompt:
  """Turns that end with a question -> Prompt.

  `names`: target names of the [SEG] in the answers so far, where these are gold.
  Raises ConversationError when even the last question does not fit.
  """
  row = encode_prompt(turns, tokenizer, names=names, **data.text_options())
  return Prompt(row.tokens_L, row.image_slot_L, row.dropped_rounds)


class Answer(NamedTuple):
  """One generated answer. `logits` (K, h, w) has one mask per [SEG] up to the model's
  limit; `num_seg` counts all [SEG]."""

  text: str
  num_seg: int = 0
  logits: np.ndarray = np.zeros((0, 1, 1), np.float32)


def read_answers(out, tokenizer) -> list[Answer]:
  """Result of `Session.turn` -> [Answer] of every row, on the host."""
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
    self._loaded = loaded
    self._views = examples.make_views(image, loaded.data)
    batch = {k: v[None] for k, v in self._views.items()}
    self._session = generator.session(generator.encode(batch), loaded.data.max_len)
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
    prompt = prompt_of(asked, loaded.tokenizer, loaded.data)
    out = self._session.turn([prompt])
    answer = read_answers(out, loaded.tokenizer)[0]
    self.turns = [*asked, ("assistant", answer.text)]
    masks = full_size(answer.logits, self._views, loaded.data.sam_size)
    return Reply(answer.text, masks, answer.num_seg, prompt.dropped_rounds)
