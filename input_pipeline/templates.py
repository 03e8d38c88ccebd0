"""Prompt templates: rounds of a conversation -> pieces, texts and control tokens.

`llava_v1` is written out here; the others are the chat templates that tokenizers bring.
A text that a person wrote is only ever a text piece, whatever it spells.
"""

import functools
import re
from typing import NamedTuple

import jinja2

from input_pipeline.records import EMPTY_NAME, OBJ_TOKEN, SEG_TOKEN
from miras_jax.errors import UserError

SYSTEM = (
  "A chat between a curious human and an artificial intelligence assistant. "
  "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
# Chat templates of a tokenizer; True: no system role, so the text opens the first turn.
# "chat" is that of any family: whether it has the role is tried out.
CHAT_TEMPLATES = {
  "llama_3": False, "qwen2": False, "mistral": True, "gemma": True, "chat": None,
}  # fmt: skip
TEMPLATES = ("llava_v1", *CHAT_TEMPLATES)

IMAGE = -1  # a piece that becomes the image slots


class EarlierMask(NamedTuple):
  """A piece that becomes the tokens of an earlier mask, by its number."""

  number: int


_MARK = re.compile(f"({re.escape(SEG_TOKEN)}|{re.escape(OBJ_TOKEN)})")
# Stand-ins for contents while a chat template is rendered: private-use characters.
_HOLE = re.compile("\ue000([sua])(\\d+)\ue001")


class Piece(NamedTuple):
  """Text, the id of a control token, IMAGE or an EarlierMask; `loss`: the model has to
  write it."""

  value: str | int | EarlierMask
  loss: bool = False


def end_token(tokenizer, template="llava_v1"):
  """Id of the token that ends an answer: generation stops there."""
  if template == "llava_v1":
    return tokenizer.ids.eos
  layout = _chat_layout(tokenizer, rounds=1, answered=True, with_system=False)
  answer = next(i for i, (kind, *_) in enumerate(layout) if kind == "a")
  return layout[answer + 1][1]


def llava_pieces(rounds, ids, system, *, image, answers, shown=()):
  """The published `llava_v1` prompt, golden prompts.json.

  shown: for each round the EarlierMasks that its question comes after. They follow a
  control token, so that no text is cut into other tokens where they are.
  """
  system = SYSTEM if system is None else system
  for i, (question, answer) in enumerate(rounds):
    head = f"{system} " if i == 0 and system else ""
    if i > 0:
      yield from _masks_before(i, shown)
    yield Piece(f"{head}USER: ")
    if i == 0 and image:
      yield from _image_block(ids, shown)
    yield Piece(f"{question} ASSISTANT:")
    if answer is not None:
      yield Piece(" ", loss=True)
      yield from answers(answer, ids)
      yield Piece(ids.eos, loss=True)


def _image_block(ids, shown):
  yield from (Piece(ids.im_start), Piece(IMAGE), Piece(ids.im_end))
  yield from _masks_before(0, shown)
  yield Piece("\n")


def _masks_before(i, shown):
  return map(Piece, shown[i]) if i < len(shown) else ()


def answer_pieces(text, ids, *, names=(), name_targets=False):
  """Pieces of an answer; takes one of the iterator `names` for each [SEG]."""
  has_obj = False
  for part in _MARK.split(text):
    if part == OBJ_TOKEN:
      has_obj = True
      yield Piece(ids.obj, loss=True)
    elif part == SEG_TOKEN:
      name = next(iter(names), None) if name_targets else None
      if name is not None and not has_obj:
        yield from (Piece(ids.obj, loss=True), Piece(name or EMPTY_NAME, loss=True))
      has_obj = False
      yield Piece(ids.seg, loss=True)
    elif part:
      yield Piece(part, loss=True)


def chat_pieces(rounds, tokenizer, system, fold, *, image, answers, shown=()):
  """The tokenizer's chat template with the contents put in as text; shown as above."""
  layout = _chat_layout(
    tokenizer,
    rounds=len(rounds),
    answered=rounds[-1][1] is not None,
    with_system=bool(system) and not fold,
  )
  answered = None
  for kind, value, loss in layout:
    if kind == "t":
      yield Piece(value, loss=loss)
      if answered is not None:  # this was the token that ends it
        yield from _masks_before(answered + 1, shown)
        answered = None
    elif kind == "s":
      yield Piece(system.strip())
    elif kind == "a":
      yield from answers(rounds[value][1].strip(), tokenizer.ids)
      answered = value
    else:
      if value == 0 and fold and system:
        yield Piece(f"{system.strip()}\n\n")
      if value == 0 and image:
        yield from _image_block(tokenizer.ids, shown)
      yield Piece(rounds[value][0].strip())


@functools.lru_cache(maxsize=256)
def folds_system(tokenizer, template):
  """Whether a system text opens the first question, for want of a role of its own."""
  if CHAT_TEMPLATES[template] is not None:
    return CHAT_TEMPLATES[template]
  hole = "\ue000s0\ue001"
  messages = [{"role": "system", "content": hole}, {"role": "user", "content": "?"}]
  try:
    return hole not in tokenizer.render_chat(messages, add_generation_prompt=True)
  except jinja2.TemplateError:  # how a template says that it knows no such role
    return True


@functools.lru_cache(maxsize=256)
def _chat_layout(tokenizer, *, rounds, answered, with_system):
  """What a chat template writes around the contents of `rounds` rounds.

  Returns [(kind, value, loss)]: "t" template text or control token id; "s" the system
  text; "u" and "a" question and answer number `value`. Only what the model has to write
  has loss: the answer, white space before it and the token that ends it.
  """
  messages = [{"role": "system", "content": "\ue000s0\ue001"}] if with_system else []
  prompts = []
  for i in range(rounds):
    messages.append({"role": "user", "content": f"\ue000u{i}\ue001"})
    prompts.append(tokenizer.render_chat(messages, add_generation_prompt=True))
    if i < rounds - 1 or answered:
      messages.append({"role": "assistant", "content": f"\ue000a{i}\ue001"})
  if not answered:
    text = prompts[-1]
  else:
    text = tokenizer.render_chat(messages, add_generation_prompt=False)
  for prompt in prompts:
    if not text.startswith(prompt):
      raise UserError(
        f"{tokenizer.name}: the chat template writes an answered turn unlike its "
        "prompt; use template=llava_v1"
      )
  return tuple(_cut_layout(text, [len(p) for p in prompts], tokenizer))


def _cut_layout(text, prompt_ends, tokenizer):
  end, answered = 0, False
  for hole in [*_HOLE.finditer(text), None]:
    between = text[end : hole.start() if hole else len(text)]
    kind, index = (hole.group(1), int(hole.group(2))) if hole else ("", -1)
    cut = prompt_ends[index] - end if kind == "a" else len(between)
    parts = tokenizer.split_special(between[:cut])
    if answered and not (parts and isinstance(parts[0], int)):
      raise UserError(
        f"{tokenizer.name}: the chat template ends an answer with no control token"
      )
    for i, part in enumerate(parts):
      yield "t", part, answered and i == 0
    if between[cut:]:
      yield "t", between[cut:], True
    if hole:
      yield kind, index, kind == "a"
      end = hole.end()
    answered = kind == "a"
