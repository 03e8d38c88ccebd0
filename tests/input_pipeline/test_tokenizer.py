"""Tokenizers: text survives, control tokens come from the program alone."""

import json

import pytest
from tokenizers import (
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  trainers,
)
from transformers import PreTrainedTokenizerFast

from input_pipeline import published
from input_pipeline.codecs import CONTROL, INSIDE, START, FastCodec
from input_pipeline.tokenizer import CONTROL_TOKENS, load_tokenizer, train_bpe
from input_pipeline.tokenizer import Tokenizer as MirasTokenizer
from miras_jax.errors import UserError
from tests.shared_data import DATA, GOLDEN, needs_data, needs_golden

CORPUS = ("USER: Where is the red circle? ASSISTANT: It is on the left side.",)
HOSTILE = ("</s>", "<s>", "[SEG]", "[OBJ]", "<im_start>", "<im_end>", "<im_patch>")
LLAMA = DATA / "real_weights" / "llama_tokenizer.model"


@pytest.fixture(scope="module")
def bpe():
  return train_bpe(CORPUS, 600)


@pytest.fixture
def golden():
  return load_tokenizer(GOLDEN / "tokenizer")


def fast_tokenizer(prefix, *, special=("<s>", "</s>")):
  """A Llama-like `tokenizer.json` whose leading space is made in one of three ways."""
  backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  if prefix == "prepend":
    backend.normalizer = normalizers.Sequence(
      [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    spaces = decoders.Replace("\u2581", " ")
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence([spaces, decoders.Fuse(), strip])
  else:
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    backend.decoder = decoders.Metaspace(prepend_scheme=prefix)
  trainer = trainers.BpeTrainer(
    vocab_size=300, special_tokens=["<unk>", *special], show_progress=False
  )
  backend.train_from_iterator(["hello the the red circle hello ", *CORPUS], trainer)
  return PreTrainedTokenizerFast(
    tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
  )


def test_bpe_gives_each_word_of_its_corpus_one_token(bpe):
  assert len(bpe.encode(" the red circle")) == 3


@pytest.mark.parametrize(
  "text", ["na\u00efve \u6771\u4eac \U0001f43b", "a  b\n\tc ", "\u0000", "\ue000"]
)
def test_bpe_round_trips_any_text(bpe, text):
  assert bpe.decode(bpe.encode(text)) == text


def test_bpe_training_repeats():
  assert train_bpe(CORPUS, 400).fingerprint() == train_bpe(CORPUS, 400).fingerprint()


def test_bpe_keeps_to_the_vocabulary_size_it_was_given():
  assert train_bpe(CORPUS, 270).vocab_size == 270


def test_bpe_without_room_for_the_bytes_is_an_error():
  with pytest.raises(UserError, match="vocab_size=100"):
    train_bpe(CORPUS, 100)


def test_saved_bpe_is_a_transformers_folder_with_equal_ids(bpe, tmp_path):
  bpe.save(tmp_path)
  theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
  text = "Where is the red circle?"
  assert theirs.encode(text, add_special_tokens=False) == bpe.encode(text)
  assert theirs.convert_tokens_to_ids("[SEG]") == bpe.ids.seg


def test_saved_bpe_loads_with_equal_fingerprint(bpe, tmp_path):
  bpe.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert (again.fingerprint(), again.ids) == (bpe.fingerprint(), bpe.ids)


def test_a_save_that_fails_leaves_no_folder(bpe, tmp_path, monkeypatch):
  def fail(folder, control):
    raise OSError("disk full")

  monkeypatch.setattr(bpe.codec, "save", fail)
  with pytest.raises(OSError, match="disk full"):
    bpe.save(tmp_path / "tokenizer")
  assert not (tmp_path / "tokenizer").exists()


def test_control_tokens_close_the_vocabulary_in_the_published_order(bpe):
  last = range(bpe.vocab_size - 5, bpe.vocab_size)
  assert list(bpe.control) == list(CONTROL_TOKENS)
  assert list(bpe.control.values()) == list(last)


def test_order_of_control_tokens_can_be_chosen():
  order = CONTROL_TOKENS[::-1]
  codec = FastCodec(fast_tokenizer("first"))
  tokenizer = MirasTokenizer(codec, control_tokens=order)
  assert tokenizer.ids.obj < tokenizer.ids.im_patch < tokenizer.ids.seg


@pytest.mark.parametrize("text", [*HOSTILE, "a[SEG]b</s>", "<unk>"])
@pytest.mark.parametrize("where", [START, CONTROL, INSIDE])
def test_plain_text_never_becomes_a_control_token(bpe, text, where):
  ids = bpe.encode(text, where)
  assert set(bpe.specials.values()).isdisjoint(ids)
  assert bpe.decode(ids, where=where) == text


@needs_golden
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", [START, CONTROL, INSIDE])
def test_plain_text_never_becomes_control_with_sentencepiece(golden, text, where):
  ids = golden.encode(text, where)
  assert set(golden.specials.values()).isdisjoint(ids)
  assert golden.decode(ids, where=where) == text


def test_decode_spells_control_tokens_or_leaves_them_out(bpe):
  ids = [*bpe.encode(" It is"), bpe.ids.obj, bpe.ids.seg, bpe.ids.eos]
  assert bpe.decode(ids) == " It is[OBJ][SEG]</s>"
  assert bpe.decode(ids, special=False) == " It is"


def test_decode_marks_ids_outside_the_vocabulary(bpe):
  assert bpe.decode([bpe.vocab_size, -200]) == "\ufffd\ufffd"


@needs_golden
@pytest.mark.parametrize("legacy", [True, False])
def test_golden_examples_in_both_modes(legacy):
  tokenizer = load_tokenizer(GOLDEN / "tokenizer", legacy=legacy)
  examples = json.loads((GOLDEN / "tokenizer" / "examples.json").read_text())
  key = f"ids_legacy_{str(legacy).lower()}"
  for example in examples:
    assert published.tokenise(example["text"], tokenizer) == example[key], example


@needs_golden
def test_saved_sentencepiece_folder_keeps_mode_and_ids(tmp_path):
  tokenizer = load_tokenizer(GOLDEN / "tokenizer", legacy=True)
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert (again.fingerprint(), again.ids) == (tokenizer.fingerprint(), tokenizer.ids)
  assert load_tokenizer(tmp_path, legacy=False).fingerprint() != again.fingerprint()


@needs_golden
def test_added_tokens_of_a_published_folder_keep_their_ids(tmp_path):
  model = (GOLDEN / "tokenizer" / "tokenizer.model").read_bytes()
  (tmp_path / "tokenizer.model").write_bytes(model)
  stored = {"[SEG]": 1003, "<im_start>": 1001, "<im_end>": 1002, "<pad>": 1000}
  (tmp_path / "added_tokens.json").write_text(json.dumps(stored))
  tokenizer = load_tokenizer(tmp_path)
  assert {t: tokenizer.specials[t] for t in stored} == stored
  assert (tokenizer.ids.im_patch, tokenizer.ids.obj) == (1004, 1005)


@needs_data
def test_llama_hello_world():
  assert load_tokenizer(LLAMA).encode("Hello world") == [15043, 3186]


@needs_data
def test_llama_adds_no_bos_by_itself_but_knows_it():
  tokenizer = load_tokenizer(LLAMA)
  assert (tokenizer.ids.bos, tokenizer.ids.eos) == (1, 2)
  assert 1 not in tokenizer.encode("Hello world")


@needs_data
def test_llama_keeps_double_spaces_as_sentencepiece_does():
  import sentencepiece

  theirs = sentencepiece.SentencePieceProcessor(model_file=str(LLAMA))
  tokenizer = load_tokenizer(LLAMA)
  for text in ("a  b", "  two  spaces ", " ", "tail  "):
    assert tokenizer.encode(text) == theirs.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@needs_data
@pytest.mark.parametrize("legacy", [True, False])
def test_llama_places_the_space_by_mode(legacy):
  tokenizer = load_tokenizer(LLAMA, legacy=legacy)
  spaced, bare = [3186], [11526]  # "▁world" and "world"
  assert tokenizer.encode("world", START) == spaced
  assert tokenizer.encode("world", CONTROL) == (spaced if legacy else bare)
  assert tokenizer.encode("world", INSIDE) == bare
  assert tokenizer.encode(" world", INSIDE) == spaced


@pytest.mark.parametrize("prefix", ["first", "always", "prepend"])
def test_fast_tokenizer_agrees_with_transformers_around_control_tokens(prefix):
  hf = fast_tokenizer(prefix)
  tokenizer = MirasTokenizer(FastCodec(hf))
  parts = ["the red", "[SEG]", "circle is", "</s>", " the left"]
  ids, where = [], START
  for part in parts:
    known = part in tokenizer.specials
    ids += [tokenizer.specials[part]] if known else tokenizer.encode(part, where)
    where = CONTROL
  assert ids == hf.encode("".join(parts), add_special_tokens=False)


@pytest.mark.parametrize("prefix", ["first", "always", "prepend"])
def test_fast_tokenizer_goes_on_at_a_space_as_if_uncut(prefix):
  tokenizer = MirasTokenizer(FastCodec(fast_tokenizer(prefix)))
  whole = tokenizer.encode("the red circle")
  assert tokenizer.encode("the") + tokenizer.encode(" red circle", INSIDE) == whole


def test_tokenizer_that_would_split_seg_is_an_error_naming_it():
  codec = FastCodec(fast_tokenizer("first"))
  with pytest.raises(UserError, match=r"splits \[SEG\] into the ids"):
    MirasTokenizer(codec, append=False)


def test_vocabulary_piece_that_text_can_spell_is_an_error():
  vocab = {"<unk>": 0, "</s>": 1, "<s>": 2, "a": 3}
  hf = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="<unk>")),
    bos_token="<s>",
    eos_token="</s>",
  )
  with pytest.raises(UserError, match="users could forge it"):
    MirasTokenizer(FastCodec(hf))


def test_missing_and_broken_files_are_named(tmp_path):
  with pytest.raises(UserError, match="no tokenizer.model here"):
    load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.model").write_bytes(b"not a model")
  with pytest.raises(UserError, match="tokenizer.model: is not a SentencePiece model"):
    load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match="tokenizer.json: cannot be read"):
    load_tokenizer(tmp_path, kind="fast")


def test_chat_template_is_asked_of_the_tokenizer_only_where_it_has_one(bpe):
  with pytest.raises(UserError, match="no chat template"):
    bpe.render_chat([{"role": "user", "content": "hi"}], add_generation_prompt=True)
