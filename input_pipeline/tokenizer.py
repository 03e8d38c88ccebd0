"""One tokenizer for every vocabulary, in which plain text never becomes control.

A control token ([SEG], <im_start>, `</s>`, ...) is an id that `Tokenizer.ids` and
`Tokenizer.split_special` hand out; `encode` treats its argument as letters whatever it
spells. Files: a SentencePiece `tokenizer.model` or a Hugging Face folder.
"""

import hashlib
import json
import os
import pathlib
import re
from typing import NamedTuple

from input_pipeline import codecs, tokenizer_files
from input_pipeline.codecs import CONTROL, START, FastCodec, SentencePieceCodec
from input_pipeline.regular_file import read_object
from miras_jax.errors import UserError

# In the order of the published vocabulary, appended at its end.
CONTROL_TOKENS = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")
PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2 of a vocabulary trained here


class TokenIds(NamedTuple):
  """Ids of the tokens that mean something to the program; -1 where there is no bos."""

  bos: int
  eos: int
  pad: int
  seg: int
  im_start: int
  im_end: int
  im_patch: int
  obj: int


class Tokenizer:
  """A codec for plain text and the control tokens around it.

  `control_tokens` that the vocabulary lacks are appended in this order; with
  `append=False`, for an embedding table that must not grow, that is an error.
  """

  def __init__(self, codec, *, control_tokens=CONTROL_TOKENS, append=True, name="?"):
    if sorted(control_tokens) != sorted(CONTROL_TOKENS):
      raise ValueError(f"{control_tokens=} is not an order of {CONTROL_TOKENS}")
    self.codec = codec
    self.name = name
    missing = [t for t in control_tokens if t not in codec.specials]
    if missing and not append:
      ids = codec.encode(missing[0], START)
      raise UserError(
        f"{name}: the tokenizer splits {missing[0]} into the ids {ids}, want one id; "
        "add it to the vocabulary (append_control=True)"
      )
    control = {t: codec.size + i for i, t in enumerate(missing)}
    if missing and isinstance(codec, FastCodec):
      codec.append(missing)
    self.specials = codec.specials | control
    self.vocab_size = codec.size + len(missing)
    self.control = {t: self.specials[t] for t in control_tokens}
    seg, start, end, patch, obj = (self.specials[t] for t in CONTROL_TOKENS)
    self.ids = TokenIds(codec.bos, codec.eos, codec.pad, seg, start, end, patch, obj)
    self._names = {i: t for t, i in self.specials.items()}
    longest_first = sorted(self.specials, key=len, reverse=True)
    self._special = re.compile("|".join(map(re.escape, longest_first)))
    self._check()

  def _check(self):
    if len(self._names) != len(self.specials):
      raise UserError(f"{self.name}: two control tokens share one id: {self.specials}")
    for token, i in self.specials.items():
      if not self._names.keys().isdisjoint(self.codec.encode(token, START)):
        raise UserError(
          f"{self.name}: the text {token!r} becomes the control token {i}, so users "
          "could forge it; make it an added token instead of a vocabulary piece"
        )

  def encode(self, text, where=START):
    """Ids of `text` as letters; never a control token. `where`: see codecs.py."""
    return self.codec.encode(text, where) if text else []

  def decode(self, ids, *, where=START, special=True):
    """Text of ids; control tokens are spelt out, or left out with `special=False`.

    `decode(encode(text)) == text`. An id outside the vocabulary becomes U+FFFD.
    """
    out, run = [], []
    for i in [*(int(i) for i in ids), None]:
      if i is not None and 0 <= i < self.vocab_size and i not in self._names:
        run.append(i)
        continue
      if run:
        out.append(self.codec.decode(run, where))
      if i in self._names:
        out.append(self._names[i] if special else "")
        where = CONTROL
      elif i is not None:
        out.append("\ufffd")
      run = []
    return "".join(out)

  def split_special(self, text):
    """Text of a template, never of a user -> list of str and control token ids."""
    out, end = [], 0
    for hit in self._special.finditer(text):
      out += [text[end : hit.start()], self.specials[hit.group()]]
      end = hit.end()
    return [part for part in [*out, text[end:]] if part != ""]

  def render_chat(self, messages, *, add_generation_prompt):
    """The tokenizer's own chat template: [{"role", "content"}] -> str."""
    if self.codec.chat is None:
      raise UserError(
        f"{self.name}: the tokenizer has no chat template; use template=llava_v1 or a "
        "tokenizer folder with a chat_template"
      )
    return self.codec.chat(
      messages,
      tokenize=False,
      add_generation_prompt=add_generation_prompt,
      date_string="26 Jul 2024",  # Llama 3.1 prints a date; ids must not depend on it
    )

  def min_length(self, text):
    """A number of tokens that `text` is sure to reach, without encoding it."""
    return len(text) // self.codec.longest

  def fingerprint(self):
    """16 hex digits that change with vocabulary, mode or control tokens."""
    digest = hashlib.sha256(self.codec.identity())
    digest.update(json.dumps(self.control, sort_keys=True).encode())
    return digest.hexdigest()[:16]

  def save(self, folder):
    """Writes a folder that `load_tokenizer` reads back with equal ids.

    A folder that was not there appears whole or not at all.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
      self.codec.save(folder, self.control)
      return
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    self.codec.save(unfinished, self.control)
    unfinished.rename(folder)


def train_bpe(texts, vocab_size, *, name="bpe"):
  """Trains a byte-level BPE on texts -> Tokenizer of at most `vocab_size` ids.

  Every byte is in the vocabulary, so any text survives; with room enough each word of
  the texts is one token. The same texts give the same ids.
  """
  from tokenizers import Tokenizer as Backend
  from tokenizers import decoders, models, pre_tokenizers, trainers

  smallest = 3 + 256 + len(CONTROL_TOKENS)
  if vocab_size < smallest:
    raise UserError(f"{vocab_size=} holds not even the bytes; want at least {smallest}")
  backend = Backend(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - len(CONTROL_TOKENS),
    special_tokens=[PAD, BOS, EOS],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  backend.train_from_iterator(texts, trainer)
  hf = codecs.fast_class()(
    tokenizer_object=backend, pad_token=PAD, bos_token=BOS, eos_token=EOS
  )
  return Tokenizer(FastCodec(hf), name=name)


def load_tokenizer(
  path, *, kind="auto", legacy=None, control_tokens=CONTROL_TOKENS, append_control=True
):
  """Reads a tokenizer from a `tokenizer.model` file or a folder -> Tokenizer.

  kind: "sentencepiece", "fast" (`tokenizer.json`) or "auto": a folder with both is read
    by sentencepiece, the oracle, unless it has a chat template or a `tokenizer.model`
    of tiktoken.
  legacy: see SentencePieceCodec; None takes the folder's `tokenizer_config.json`, else
    False, as in Llama 2 and Vicuna 1.5, with a warning.
  """
  path = pathlib.Path(path)
  options = {"control_tokens": control_tokens, "append": append_control, "name": path}
  if kind not in ("auto", "sentencepiece", "fast"):
    raise ValueError(f"{kind=} is not auto, sentencepiece or fast")
  if path.name == tokenizer_files.FAST and not path.is_dir():
    path, kind = path.parent, "fast"
  if path.exists() and not path.is_dir():
    return Tokenizer(_read_sentencepiece(path, legacy), **options)
  tokenizer_files.check(path)
  model, fast = path / tokenizer_files.MODEL, path / tokenizer_files.FAST
  if kind == "auto":
    plain = model.is_file() and not tokenizer_files.is_tiktoken(model)
    use_fast = fast.is_file() and (not plain or _has_chat_template(path))
    kind = "fast" if use_fast else "sentencepiece"
  wanted = fast if kind == "fast" else model
  if not wanted.is_file():
    raise UserError(f"{path}: no {wanted.name} here; pass a tokenizer file or folder")
  settings = tokenizer_files.read_settings(path)
  if kind == "fast":
    return Tokenizer(_read_fast(path, settings), **options)
  codec = _read_sentencepiece(model, settings.legacy if legacy is None else legacy)
  codec.add(settings.added, CONTROL_TOKENS)
  codec.name_ends(settings)
  return Tokenizer(codec, **options)


def _read_sentencepiece(path, legacy):
  tokenizer_files.refuse_tiktoken(path)
  codec = SentencePieceCodec(path, legacy=bool(legacy))
  if legacy is None and codec.spaced:
    tokenizer_files.warn_of_legacy(path, codec.legacy)
  return codec


def _read_fast(path, settings):
  """FastCodec of a folder whose settings agree with its vocabulary. UserError."""
  file = path / tokenizer_files.FAST
  own = tokenizer_files.own_tokens(file)
  for name, token in (("bos_token", settings.bos), ("eos_token", settings.eos)):
    if token is not None and token not in own and token not in settings.added:
      raise UserError(f"{settings.path}: {name} {token!r:.60} is no token of {file}")
  try:
    hf = codecs.fast_class().from_pretrained(str(path))
    codec = FastCodec(hf, add_bos=settings.add_bos)
  except UserError:
    raise
  except Exception as e:  # the Rust reader raises bare Exception
    raise UserError(f"{file}: cannot be read: {e}") from None
  except BaseException as e:
    raise codecs.of_panic(e, path) from None
  for token, i in settings.added.items():
    if (found := hf.convert_tokens_to_ids(token)) != i:
      raise UserError(f"{settings.path}: {token!r:.60} is {i}, and {found} in {file}")
  return codec


def _has_chat_template(folder):
  config = read_object(folder / tokenizer_files.CONFIG)
  return (folder / "chat_template.jinja").is_file() or "chat_template" in config
