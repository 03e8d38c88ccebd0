"""The published collate step, token for token, drift and all: for parity alone.

Training uses `conversation.py`. Rules 1 to 6 are in the golden README; the reference is
`tokenizer_image_token` and `collate_fn` of the published code, on transformers' slow
LlamaTokenizer.
"""

import numpy as np

from input_pipeline.codecs import CONTROL, INSIDE, START

IMAGE_TOKEN_INDEX = -200
IGNORE_INDEX = -100
ROOM_FOR_IMAGE = 255  # subtracted from model_max_length whatever the image costs


def tokenise(prompt, tokenizer):
  """Ids of a whole prompt text, BOS (if any) first, `<image>` as IMAGE_TOKEN_INDEX.

  Control strings are control tokens wherever they stand, unlike in `Tokenizer.encode`.
  """
  ids = [tokenizer.ids.bos] if tokenizer.ids.bos >= 0 else []
  for i, chunk in enumerate(prompt.split("<image>")):
    ids += [IMAGE_TOKEN_INDEX] if i else []
    ids += _tokenise_chunk(chunk, tokenizer)
  return ids


def _tokenise_chunk(text, tokenizer):
  parts = tokenizer.split_special(text)
  ids = []
  if parts and parts[0] == tokenizer.ids.seg and not tokenizer.codec.legacy:
    ids += tokenizer.encode(" ", INSIDE)  # [SEG] is no "special" token there
  for i, part in enumerate(parts):
    where = START if i == 0 else CONTROL
    ids += tokenizer.encode(part, where) if isinstance(part, str) else [part]
  return ids


def label(prompt, tokenizer):
  """(ids, labels) of one prompt by the published rule of counting pieces."""
  ids = tokenise(prompt, tokenizer)
  labels = list(ids)
  end = 1
  labels[:end] = [IGNORE_INDEX]
  for piece in prompt.split("</s>"):
    if not piece:
      break
    question, separator, _ = piece.partition(" ASSISTANT: ")
    if not separator:
      raise ValueError(f"no ' ASSISTANT: ' in the piece {piece!r}")
    masked = len(tokenise(question + separator, tokenizer)) - 2
    labels[end : end + masked] = [IGNORE_INDEX] * len(labels[end : end + masked])
    end += len(tokenise(piece, tokenizer))
  labels[end:] = [IGNORE_INDEX] * len(labels[end:])
  return ids, labels


def collate(prompts, tokenizer, *, model_max_length):
  """Prompt texts -> input_ids, labels (B,T) int64 and attention_masks (B,T) bool."""
  rows = [label(prompt, tokenizer) for prompt in prompts]
  width = max(len(ids) for ids, _ in rows)
  shape = (len(rows), width)
  input_ids = np.full(shape, tokenizer.ids.pad, np.int64)
  labels = np.full(shape, IGNORE_INDEX, np.int64)
  for b, (ids, wanted) in enumerate(rows):
    input_ids[b, : len(ids)] = ids
    labels[b, : len(wanted)] = wanted
  out = {
    "input_ids": input_ids,
    "labels": labels,
    "attention_masks": input_ids != tokenizer.ids.pad,
  }
  return {k: v[:, : model_max_length - ROOM_FOR_IMAGE] for k, v in out.items()}
