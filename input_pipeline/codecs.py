"""Plain text <-> ids for the two kinds of tokenizer file. No control token in sight.

`START` begins a prompt, `CONTROL` follows a control token, `INSIDE` goes on with a text
at a white space. The three differ only in the space that a tokenizer puts in front.
"""

import json
import os
import pathlib

from input_pipeline.regular_file import read_bytes
from miras_jax.errors import UserError

START, CONTROL, INSIDE = "start", "control", "inside"

# Appended to a serialised ModelProto this merges into its normalizer_spec (field 3) and
# sets add_dummy_prefix (field 3) to false: the documented rule of protobuf for a field
# that occurs twice, so neither protobuf nor a rewritten model file is needed.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
MAX_MODEL_BYTES = 64 << 20  # the largest published one has 4 MB


class SentencePieceCodec:
  """A `tokenizer.model` as sentencepiece itself reads it, the oracle for Llama.

  `legacy=True` puts the space in front of every text, also one after a control token
  (LLaVA's and the first Llama's behaviour); `legacy=False` only at the start.
  """

  def __init__(self, path, *, legacy=False):
    import sentencepiece  # not on every machine that trains

    self.legacy = legacy
    try:
      self.data = read_bytes(path, MAX_MODEL_BYTES)
      # Parsed twice; the second one never puts a space in front.
      self._prefixed = sentencepiece.SentencePieceProcessor(model_proto=self.data)
      bare = self.data + _NO_DUMMY_PREFIX
      self._bare = sentencepiece.SentencePieceProcessor(model_proto=bare)
      self._read(self._prefixed)
    except (OSError, RuntimeError, ValueError) as e:  # a piece may be no UTF-8
      reason = str(e).splitlines()[0] if str(e) else type(e).__name__
      raise UserError(f"{path}: is not a SentencePiece model: {reason}") from None
    self.chat, self.path, self._own = None, path, self.size

  def _read(self, sp):
    self.size = sp.get_piece_size()
    self.bos, self.eos = sp.bos_id(), sp.eos_id()
    self.pad = sp.pad_id() if sp.pad_id() >= 0 else sp.unk_id()
    self.specials = {sp.id_to_piece(i): i for i in range(self.size) if sp.is_control(i)}
    self.longest = max(len(sp.id_to_piece(i)) for i in range(self.size))

  @property
  def spaced(self):
    """Whether `legacy` makes a difference: the model puts a space before a text."""
    return self._prefixed.encode("a") != self._bare.encode("a")

  def add(self, tokens, control):
    """Tokens behind the vocabulary, {token: id}, and those of `control` within it."""
    for token, i in sorted(tokens.items(), key=lambda item: str(item[1])):
      if i >= self._own or token in control:
        self.specials[token] = i
    self.size = max([self.size, *(i + 1 for i in self.specials.values())])

  def name_ends(self, settings):
    """Takes bos and eos of tokenizer_files.Settings. UserError for an unknown one."""
    if settings.bos is not None:
      self.bos = self._id(settings.bos, "bos_token", settings.path)
    if settings.eos is not None:
      self.eos = self._id(settings.eos, "eos_token", settings.path)
    if not settings.add_bos:
      self.bos = -1

  def _id(self, token, name, path):
    """The id of a token, which from now on no text becomes."""
    i = self.specials.get(token)
    if i is None:
      i = self._prefixed.piece_to_id(token)
      if self._prefixed.id_to_piece(i) != token:
        raise UserError(f"{path}: {name} {token!r:.60} is no token of {self.path}")
      self.specials[token] = i
    return i

  def _changes(self):
    """Settings of a folder that the model itself does not say."""
    names = {i: token for token, i in self.specials.items()}
    changed = {}
    if self.bos != self._prefixed.bos_id():
      found = {"add_bos_token": False} if self.bos < 0 else {}
      changed |= found or {"bos_token": names[self.bos]}
    if self.eos != self._prefixed.eos_id():
      changed["eos_token"] = names[self.eos]
    return changed

  def _pick(self, where):
    prefixed = where == START or (where == CONTROL and self.legacy)
    return self._prefixed if prefixed else self._bare

  def encode(self, text, where):
    return self._pick(where).encode(text)

  def decode(self, ids, where):
    return self._pick(where).decode(ids)

  def identity(self):
    changes = json.dumps(self._changes(), sort_keys=True).encode()
    return self.data + bytes([self.legacy]) + (changes if self._changes() else b"")

  def save(self, folder, control):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(self.data)
    added = {t: i for t, i in self.specials.items() if i >= self._own} | control
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n")
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": self.legacy}
    config |= self._changes()
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class FastCodec:
  """A Hugging Face `tokenizer.json`, stripped of the tokens that text could spell.

  `hf` is a `transformers.PreTrainedTokenizerFast`; its added tokens are taken out, so
  `<|eot_id|>` typed by a user stays letters. `add_bos=False`: no bos is written.
  """

  def __init__(self, hf, *, add_bos=True):
    from tokenizers import Tokenizer

    full = hf.backend_tokenizer
    self.hf = hf
    self.full = full
    self.chat = hf.apply_chat_template if hf.chat_template else None
    parts = json.loads(full.to_str())
    self._plain, self._bare = Tokenizer(full.model), Tokenizer(full.model)
    for name in ("normalizer", "pre_tokenizer", "decoder"):
      if getattr(full, name) is not None:
        setattr(self._plain, name, getattr(full, name))
    bare = {k: _without_prefix(parts[k]) for k in _PARTS}
    shell = Tokenizer.from_str(json.dumps(_SHELL | bare))
    for name in _PARTS:
      if getattr(shell, name) is not None:
        setattr(self._bare, name, getattr(shell, name))
    self._only_first = '"prepend_scheme": "first"' in json.dumps(parts["pre_tokenizer"])
    vocab = full.get_vocab(with_added_tokens=True)
    self.size = max(vocab.values()) + 1
    self.longest = max(map(len, vocab))
    ids = (hf.bos_token_id, hf.eos_token_id, hf.pad_token_id, hf.unk_token_id)
    self.bos, self.eos, pad, unk = (-1 if i is None else i for i in ids)
    self.bos, self._add_bos = self.bos if add_bos else -1, add_bos
    if self.eos < 0:
      raise UserError(f"{hf.name_or_path}: the tokenizer names no end token (eos)")
    added = full.get_added_tokens_decoder().items()
    # Text may become the unknown token; in GPT-2 that one also ends the text.
    text = {unk} - {self.bos, self.eos}
    self.specials = {t.content: i for i, t in added if i not in text}
    self.pad = next((i for i in (pad, unk) if i >= 0), self.eos)

  def _pick(self, where):
    bare = where == INSIDE or (where == CONTROL and self._only_first)
    return self._bare if bare else self._plain

  def encode(self, text, where):
    try:
      return self._pick(where).encode(text, add_special_tokens=False).ids
    except BaseException as error:
      what = f"{self.hf.name_or_path}: a text of {len(text):,} letters"
      raise of_panic(error, what) from None

  def decode(self, ids, where):
    return self._pick(where).decode(ids, skip_special_tokens=False)

  def identity(self):
    return self.full.to_str().encode() + (b"" if self._add_bos else b"no bos")

  def save(self, folder, control):
    self.hf.save_pretrained(str(folder))
    if not self._add_bos:
      path = pathlib.Path(folder) / "tokenizer_config.json"
      config = json.loads(path.read_text(encoding="utf-8")) | {"add_bos_token": False}
      path.write_text(json.dumps(config, indent=2) + "\n")

  def append(self, names):
    """Adds tokens to the vocabulary, so that `save` keeps them."""
    from tokenizers import AddedToken

    self.full.add_special_tokens([AddedToken(n, normalized=False) for n in names])


def of_panic(error, what):
  """UserError for a panic of the Rust library, which is no Exception; else the error.

  A pattern that tries too many ways to match ends so.
  """
  if type(error).__name__ != "PanicException":
    return error
  return UserError(f"{what}: its tokenizer.json gave up: {str(error)[:100]}")


def fast_class():
  """transformers.PreTrainedTokenizerFast, without its remark that torch is missing."""
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  from transformers import PreTrainedTokenizerFast

  return PreTrainedTokenizerFast


_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_SHELL = {
  "version": "1.0",
  "added_tokens": [],
  "post_processor": None,
  "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}


def _without_prefix(part):
  """A component of tokenizer.json that neither adds nor strips a leading space."""
  if part is None or part["type"] in ("Prepend", "Strip"):
    return None
  if part["type"] == "Metaspace":
    return part | {"prepend_scheme": "never"}
  if part["type"] == "ByteLevel":
    return part | {"add_prefix_space": False}
  for children in ("normalizers", "pretokenizers", "decoders"):
    if children in part:
      kept = [_without_prefix(child) for child in part[children]]
      return part | {children: [child for child in kept if child]}
  return part
