"""What a tokenizer's folder says beside its vocabulary is used, compared or refused."""

import base64
import io
import json
import os

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from input_pipeline import tokenizer_files
from input_pipeline.codecs import fast_class
from input_pipeline.tokenizer import CONTROL_TOKENS, load_tokenizer
from miras_jax.errors import UserError

SIZE = 280
pytestmark = pytest.mark.usefixtures("ends_soon")


@pytest.fixture(scope="module")
def model():
  """A SentencePiece model of SIZE ids with a space in front, as Llama's."""
  out = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["where is the red circle on the left side"] * 4),
    model_writer=out, vocab_size=SIZE, model_type="bpe", byte_fallback=True,
    minloglevel=2, hard_vocab_limit=False,
  )  # fmt: skip
  return out.getvalue()


def folder(path, model, config=None, **files):
  """A folder with a `tokenizer.model`, its settings and other JSON files."""
  path.mkdir()
  (path / "tokenizer.model").write_bytes(model)
  files = {"tokenizer_config": config} | files
  for name, content in files.items():
    if content is not None:
      (path / f"{name}.json").write_text(json.dumps(content))
  return path


def decoder(tokens, first):
  return {
    "legacy": False,
    "added_tokens_decoder": {
      str(first + i): {"content": token, "special": True}
      for i, token in enumerate(tokens)
    },
  }


def fast(path, config=None, *, pattern=None, added=()):
  """A folder with a byte-level `tokenizer.json`."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = ["<pad>", "<s>", "</s>", *letters]
  backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
  level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  backend.pre_tokenizer = level
  if pattern is not None:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(["<pad>", "<s>", "</s>", *added])
  hf = fast_class()(
    tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
  )
  hf.save_pretrained(str(path))
  file = path / "tokenizer_config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | (config or {})))
  return path


def again(tokenizer, path):
  tokenizer.save(path)
  return load_tokenizer(path)


# -- added tokens ---------------------------------------------------------------------


def test_tokens_of_the_settings_are_added_as_those_of_their_own_file(tmp_path, model):
  size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
  tokens = CONTROL_TOKENS[::-1]  # not the order in which missing ones are appended
  stored = {token: size + i for i, token in enumerate(tokens)}
  one = folder(tmp_path / "a", model, decoder(tokens, size))
  two = folder(tmp_path / "b", model, {"legacy": False}, added_tokens=stored)
  one, two = load_tokenizer(one), load_tokenizer(two)
  assert one.ids == two.ids and one.ids.seg == size + 4
  assert one.fingerprint() == two.fingerprint()


def test_two_files_that_give_a_token_two_ids_are_named(tmp_path, model):
  path = folder(
    tmp_path / "a", model, decoder(["[SEG]"], 300), added_tokens={"[SEG]": 301}
  )
  with pytest.raises(UserError, match=r"config.json: '\[SEG\]' is 300, and 301 in add"):
    load_tokenizer(path)


def test_settings_that_contradict_a_fast_vocabulary_are_named(tmp_path):
  path = fast(tmp_path / "a", decoder(["[SEG]"], 300), added=["[SEG]"])
  with pytest.raises(UserError, match=r"'\[SEG\]' is 300, and 259 in .*tokenizer.json"):
    load_tokenizer(path)


@pytest.mark.parametrize("i", [10**9, -1, "x"])
def test_an_id_that_no_vocabulary_has_is_refused(tmp_path, model, i):
  path = folder(tmp_path / "a", model, {"legacy": False}, added_tokens={"[SEG]": i})
  with pytest.raises(UserError, match=r"added_tokens.json: the id of '\[SEG\]' is"):
    load_tokenizer(path)


# -- bos, eos, legacy -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("token", ["<|im_end|>", {"content": "<|im_end|>"}])
def test_the_end_token_is_that_of_the_settings(tmp_path, model, where, token):
  config = decoder(["<|im_end|>"], 300)
  other = {"eos_token": token}
  files = {} if where == "tokenizer_config" else {where: other}
  path = folder(tmp_path / "a", model, config | ({} if files else other), **files)
  tokenizer = load_tokenizer(path)
  assert tokenizer.ids.eos == 300
  saved = again(tokenizer, tmp_path / "b")
  assert saved.ids == tokenizer.ids
  assert saved.fingerprint() == tokenizer.fingerprint()


def test_an_end_token_that_the_model_names_changes_no_fingerprint(tmp_path, model):
  plain = load_tokenizer(folder(tmp_path / "a", model, {"legacy": False}))
  more = {"legacy": False, "eos_token": "</s>", "add_bos_token": True}
  named = load_tokenizer(folder(tmp_path / "b", model, more))
  assert (named.ids, named.fingerprint()) == (plain.ids, plain.fingerprint())


@pytest.mark.parametrize("kind", ["sentencepiece", "fast"])
def test_an_end_token_that_no_vocabulary_has_is_named(tmp_path, model, kind):
  config = {"legacy": False, "eos_token": "<|over|>"}
  path = tmp_path / "a"
  folder(path, model, config) if kind == "sentencepiece" else fast(path, config)
  with pytest.raises(
    UserError, match=r"config.json: eos_token '<\|over\|>' is no token"
  ):
    load_tokenizer(path)


@pytest.mark.parametrize("kind", ["sentencepiece", "fast"])
def test_a_tokenizer_that_adds_no_bos_has_none(tmp_path, model, kind):
  config, path = {"legacy": False, "add_bos_token": False}, tmp_path / "a"
  folder(path, model, config) if kind == "sentencepiece" else fast(path, config)
  tokenizer = load_tokenizer(path)
  assert tokenizer.ids.bos == -1 and "<s>" in tokenizer.specials
  saved = again(tokenizer, tmp_path / "b")
  assert (saved.ids, saved.fingerprint()) == (tokenizer.ids, tokenizer.fingerprint())


@pytest.mark.parametrize("name", ["legacy", "add_bos_token"])
def test_a_flag_that_is_none_is_named(tmp_path, model, name):
  with pytest.raises(UserError, match=f"config.json: {name} is 'yes', want true or"):
    load_tokenizer(folder(tmp_path / "a", model, {name: "yes"}))


def test_a_missing_legacy_is_said(tmp_path, model, caplog):
  load_tokenizer(folder(tmp_path / "a", model, {}))
  assert "a/tokenizer.model: no `legacy` in a tokenizer_config.json" in caplog.text
  caplog.clear()
  load_tokenizer(folder(tmp_path / "b", model, {"legacy": True}))
  assert not caplog.text


# -- tiktoken -------------------------------------------------------------------------


def ranks():
  lines = (base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
  return b"".join(lines)


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_vocabulary_of_tiktoken_leaves_the_word_to_tokenizer_json(tmp_path, name):
  path = fast(tmp_path / "a")
  (path / "tokenizer.model").write_bytes(ranks())
  assert load_tokenizer(path / name).ids.eos == 2


def test_a_vocabulary_of_tiktoken_alone_says_what_to_get(tmp_path):
  path = folder(tmp_path / "a", ranks())
  for given in (path, path / "tokenizer.model"):
    with pytest.raises(UserError, match="is a vocabulary of tiktoken.*tokenizer.json"):
      load_tokenizer(given)


# -- hostile --------------------------------------------------------------------------

LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
O200K = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
)


@pytest.mark.parametrize("pattern", [LLAMA3, BLOOM, O200K, r"\(a+\)+", "[(a+)]+", ""])
def test_a_published_pattern_is_harmless(pattern):
  assert tokenizer_files.danger(pattern) == ""


@pytest.mark.parametrize(
  "pattern",
  ["(a+)+$", "(?:a{1,100}){1,100}b", "((a)*)*b", "([a-z]+ ?)*!", "(" * 99 + ")" * 99,
   "a" * 5000],
)  # fmt: skip
def test_a_pattern_without_an_end_is_refused(tmp_path, pattern):
  path = fast(tmp_path / "a", pattern=pattern)
  with pytest.raises(UserError, match="tokenizer.json: the pattern .*: refused"):
    load_tokenizer(path)


def test_a_pattern_that_gives_up_at_work_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer_files, "danger", lambda pattern: "")
  tokenizer = load_tokenizer(fast(tmp_path / "a", pattern="(a+)+$"))
  with pytest.raises(UserError, match="a text of 201 letters: its tokenizer.json gave"):
    tokenizer.encode("a" * 200 + "c")


def test_a_piece_that_is_no_text_is_one_line(tmp_path, model):
  damaged = model.replace("\u2581".encode(), b"\xe4\xff\xff")
  assert damaged != model
  with pytest.raises(UserError, match="is not a SentencePiece model: 'utf-8' codec"):
    load_tokenizer(folder(tmp_path / "a", damaged, {"legacy": False}))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_fifo_among_the_files_is_refused(tmp_path, name):
  path = fast(tmp_path / "a")
  (path / name).unlink(missing_ok=True)
  os.mkfifo(path / name)
  with pytest.raises(UserError, match=f"{name}: is a FIFO"):
    load_tokenizer(path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_tokenizer_that_is_a_pointer_of_git_lfs_is_called_so(tmp_path, name):
  path = fast(tmp_path / "a")
  (path / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 3\n")
  with pytest.raises(UserError, match=f"{name}: is a pointer of Git LFS"):
    load_tokenizer(path)


@pytest.mark.parametrize("i", [2**31 - 1, -1, "x"])
def test_a_vocabulary_with_an_id_that_none_has_is_refused(tmp_path, i):
  shell = {"model": {"type": "BPE", "vocab": {"a": 0, "b": i}, "merges": []}}
  (tmp_path / "tokenizer.json").write_text(json.dumps(shell))
  with pytest.raises(UserError, match="tokenizer.json: the id of 'b' is"):
    load_tokenizer(tmp_path)
