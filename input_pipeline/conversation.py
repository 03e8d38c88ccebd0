"""Turns of a conversation -> token ids, loss mask and the places of [SEG] and [OBJ].

Text goes to the tokenizer in runs between control tokens, cut once more where an answer
begins. So a prompt is an exact prefix of the training row, and the loss mask is known
by construction instead of by counting.
# differs from reference: the published label rule counts pieces and drifts by one token
# a round (golden quirk 11); `published.py` has it for comparison.

Suffixes: L tokens of the row, K [SEG] tokens.
"""

import functools
from typing import NamedTuple

import numpy as np

from input_pipeline import templates
from input_pipeline.codecs import CONTROL, INSIDE, START
from input_pipeline.records import SEG_TOKEN
from input_pipeline.templates import CHAT_TEMPLATES, IMAGE, TEMPLATES, Piece
from miras_jax.errors import UserError


class ConversationError(UserError):
  """A conversation that cannot become tokens; the message is the reason alone."""


class Encoded(NamedTuple):
  """One conversation as int32 arrays, not padded.

  `loss_mask_L` is 1 on answer tokens and the token that ends the answer;
  `image_slot_L` -1 on text, and past the image's tokens the `slot_tokens` of each
  earlier mask; `obj_pos_K` -1 where a [SEG] has no [OBJ]. The oldest
  `dropped_rounds` rounds, with `dropped_targets` [SEG] in them, did not fit. The
  first `prefix_length` tokens, up to <im_end>, do not depend on the turns.
  `segments_L` is None for one conversation; `packing.join` sets it.
  """

  tokens_L: np.ndarray
  loss_mask_L: np.ndarray
  positions_L: np.ndarray
  image_slot_L: np.ndarray
  seg_pos_K: np.ndarray
  obj_pos_K: np.ndarray
  dropped_rounds: int = 0
  dropped_targets: int = 0
  prefix_length: int = 0
  segments_L: np.ndarray | None = None


def encode_conversation(turns, tokenizer, *, names=None, **options):
  """A conversation that ends with an answer -> Encoded, for training and scoring.

  turns: (role, text) pairs, "user" and "assistant" in turn, user first. In answers
    [SEG] and [OBJ] are control tokens; everything else, and all a user types, is text.
  names: the target name of each [SEG], which `name_targets` needs.
  options: those of `_encode`; with `slot_tokens`, an earlier mask for each [SEG] of an
    answer follows it, numbered as they are. A row past `max_len` loses its oldest
    rounds, never the system text, the image, the last round or the round of the last
    [SEG]; when that is not enough: ConversationError.
  """
  rounds = _rounds(turns)
  if rounds[-1][1] is None:
    raise ConversationError("the conversation ends with a question, want an answer")
  count = sum(count_segs(answer) for _, answer in rounds)
  if names is not None and len(names) != count:
    raise ConversationError(f"{count} [SEG] in the answers but {len(names)} targets")
  return _encode(rounds, tokenizer, names=names, **options)


def encode_prompt(turns, tokenizer, *, shown=(), named=(), **options):
  """Turns that end with a question -> Encoded up to where the answer begins.

  shown: for each round the numbers of the earlier masks that its question comes after.
  named: those that stay, before the oldest question, where their round does not fit.
  Its tokens are a prefix of those `encode_conversation` gives for the same turns and
  options with the answer added, as long as neither drops a round.
  """
  rounds = _rounds(turns)
  if rounds[-1][1] is not None:
    raise ConversationError("the prompt ends with an answer, want a question")
  return _encode(rounds, tokenizer, shown=shown, named=named, **options)


def count_segs(text):
  """Number of [SEG] control tokens that an answer with this text holds."""
  return text.count(SEG_TOKEN) if text else 0


def plain_texts(turns, *, system=None, names=None):
  """The texts between control tokens of a `llava_v1` row: what train_bpe should see."""
  answers = functools.partial(
    templates.answer_pieces, names=iter(names or ()), name_targets=names is not None
  )
  pieces = templates.llava_pieces(
    _rounds(turns), _NoIds, system, image=True, answers=answers
  )
  return [p.value for p in _run_pieces(pieces) if isinstance(p.value, str)]


def _rounds(turns):
  """[(question, answer)], the last answer None when the turns end with a question."""
  if not turns:
    raise ConversationError("the conversation has no turns")
  for i, (role, _) in enumerate(turns):
    want = ("user", "assistant")[i % 2]
    if role != want:
      raise ConversationError(f"turn {i} has role {role!r}, want {want!r}")
  texts = [text for _, text in turns] + [None] * (len(turns) % 2)
  return list(zip(texts[::2], texts[1::2], strict=True))


def _encode(
  rounds,
  tokenizer,
  *,
  max_len=None,
  names=None,
  shown=None,
  named=(),
  slot_tokens=0,
  **options,
):
  """Rounds -> Encoded, dropping the oldest rounds until `max_len` tokens hold it.

  slot_tokens: of an earlier mask; 0: none is shown. shown: None: that of each [SEG].
  """
  floors = [_floor(pair, tokenizer) for pair in rounds]
  droppable = _droppable(rounds)
  for drop in range(droppable + 1):
    gone = sum(count_segs(answer) for _, answer in rounds[:drop])
    length = sum(floors[drop:])
    if max_len is not None and length > max_len:
      continue  # never encoded, so a huge turn costs nothing
    kept_names = None if names is None else names[gone:]
    kept = rounds[drop:]
    masks = _after_answers(kept) if shown is None else _still(shown, drop, named)
    row = _render(
      kept,
      tokenizer,
      names=kept_names,
      shown=masks if slot_tokens else (),
      slot_tokens=slot_tokens,
      **options,
    )
    length = len(row.tokens_L)
    if max_len is None or length <= max_len:
      return row._replace(dropped_rounds=drop, dropped_targets=gone)
  raise ConversationError(
    f"needs {length} tokens or more with {droppable} of {len(rounds)} rounds dropped, "
    f"the limit is max_len={max_len}"
  )


def _still(shown, drop, named):
  """The masks before each question when the oldest `drop` rounds are gone."""
  stay = [e for numbers in shown[:drop] for e in numbers if e in named]
  return [[*stay, *shown[drop]], *shown[drop + 1 :]] if stay else shown[drop:]


def _after_answers(rounds):
  """For each round the numbers of the [SEG] of the answer before it."""
  ends = np.cumsum([0, *(count_segs(answer) for _, answer in rounds[:-1])])
  return [(), *map(range, ends[:-1], ends[1:])]


def _floor(texts, tokenizer):
  return sum(1 + tokenizer.min_length(text or "") for text in texts)


def _droppable(rounds):
  """How many of the oldest rounds may go."""
  with_seg = [i for i, (_, answer) in enumerate(rounds) if count_segs(answer)]
  if rounds[-1][1] is not None and with_seg:
    return with_seg[-1]
  return len(rounds) - 1


def _render(
  rounds,
  tokenizer,
  *,
  names,
  template="llava_v1",
  system=None,
  num_image_tokens=0,
  name_targets=False,
  shown=(),
  slot_tokens=0,
):
  """Rounds -> Encoded.

  system: None is the template's own text, "" none. num_image_tokens: slots between
  <im_start> and <im_end> before the first question; 0 is a conversation without image.
  name_targets: an answer's [SEG] is written [OBJ]name[SEG]. shown: for each round the
  numbers of earlier masks, slot_tokens each; none where there is no image.
  """
  if template not in TEMPLATES:
    raise UserError(f"{template=} is not one of {', '.join(TEMPLATES)}")
  answers = functools.partial(
    templates.answer_pieces, names=iter(names or ()), name_targets=name_targets
  )
  masks = [map(templates.EarlierMask, numbers) for numbers in shown]
  options = {"image": num_image_tokens > 0, "answers": answers}
  options["shown"] = masks if num_image_tokens else ()
  counts = num_image_tokens, slot_tokens
  if template in CHAT_TEMPLATES:
    fold = templates.folds_system(tokenizer, template)
    pieces = templates.chat_pieces(rounds, tokenizer, system, fold, **options)
    return _to_arrays([], pieces, tokenizer, *counts)
  pieces = templates.llava_pieces(rounds, tokenizer.ids, system, **options)
  first = [tokenizer.ids.bos] if tokenizer.ids.bos >= 0 else []
  return _to_arrays(first, pieces, tokenizer, *counts)


def _run_pieces(pieces):
  """Neighbouring texts with equal loss become one, as the tokenizer must see them."""
  out = []
  for piece in pieces:
    last = out[-1] if out else None
    both = last and isinstance(last.value, str) and isinstance(piece.value, str)
    if both and last.loss == piece.loss:
      out[-1] = Piece(last.value + piece.value, piece.loss)
    else:
      out.append(piece)
  return out


def _to_arrays(first, pieces, tokenizer, num_image_tokens, slot_tokens):
  ids = tokenizer.ids
  tokens, loss, slots = list(first), [0] * len(first), [-1] * len(first)
  where, prefix_length = START, 0
  for value, has_loss in _run_pieces(pieces):
    slot = [-1]
    if isinstance(value, str):
      added = tokenizer.encode(value, where)
      slot *= len(added)
    elif value == IMAGE:
      added, slot = [ids.im_patch] * num_image_tokens, range(num_image_tokens)
    elif isinstance(value, templates.EarlierMask):
      at = num_image_tokens + value.number * slot_tokens
      added, slot = [ids.im_patch] * slot_tokens, range(at, at + slot_tokens)
    else:
      added = [value]
    where = INSIDE if isinstance(value, str) else CONTROL
    tokens += added
    slots += slot
    loss += [int(has_loss)] * len(added)
    if value == ids.im_end:
      prefix_length = len(tokens)
  tokens_L, loss_mask_L = np.array(tokens, np.int32), np.array(loss, np.int32)
  seg_pos_K, obj_pos_K = _find_targets(tokens_L, loss_mask_L, ids)
  return Encoded(
    tokens_L=tokens_L,
    loss_mask_L=loss_mask_L,
    positions_L=np.arange(len(tokens), dtype=np.int32),
    image_slot_L=np.array(slots, np.int32),
    seg_pos_K=seg_pos_K,
    obj_pos_K=obj_pos_K,
    prefix_length=prefix_length,
  )


def _find_targets(tokens_L, loss_mask_L, ids):
  """Index of each [SEG], and of the last [OBJ] between it and what came before it."""
  answer_L = np.cumsum(loss_mask_L == 0)  # constant within one answer
  seg, obj, open_obj = [], [], -1
  for t in np.flatnonzero((tokens_L == ids.seg) | (tokens_L == ids.obj)):
    if open_obj >= 0 and answer_L[open_obj] != answer_L[t]:
      open_obj = -1
    if tokens_L[t] == ids.seg:
      seg.append(t)
      obj.append(open_obj)
    open_obj = t if tokens_L[t] == ids.obj else -1
  return np.array(seg, np.int32), np.array(obj, np.int32)


class _NoIds:
  """Stands in for token ids where only the texts matter."""

  seg = obj = eos = im_start = im_end = -2
