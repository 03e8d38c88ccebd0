"""What holds for every source, whoever implements the protocol."""

import json

import numpy as np
import pytest

from input_pipeline import packing
from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig, Examples
from input_pipeline.mixture import mix
from input_pipeline.open_source import open_source
from input_pipeline.pipeline import make_pipeline
from input_pipeline.records import RecordError
from input_pipeline.source import Source
from input_pipeline.subset import first_records
from input_pipeline.tokenizer import train_bpe
from tests import prist_files
from tests.input_pipeline.fakes import assert_equal, take, turns

CFG = DataConfig(max_len=256, max_masks=3, sam_size=32, aux_size=16, num_image_tokens=4)
LIMITS = {"limit": 3, "max_len": CFG.max_len, "max_masks": CFG.max_masks}
BROKEN = 3  # of the eight records of each folder
KINDS = ("prist", "plain", "first", "packed", "mixture", "packed_mixture")


class Plain(Source):
  """The least that a new format has to say; all else comes from the protocol."""

  def __init__(self, source):
    self.source, self.file, self.image_ids = source, source.file, source.image_ids

  def __len__(self):
    return len(self.source)

  def load(self, i):
    return self.source.load(i)

  def fingerprint(self):
    return self.source.fingerprint()


@pytest.fixture(scope="module")
def tokenizer():
  return train_bpe(plain_texts(turns(0)), 400)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Two folders that call different photographs by one name, `a.png`."""
  return [_write(tmp_path_factory.mktemp(name), seed) for seed, name in enumerate("ab")]


def _write(root, seed):
  answers = ("Sure, [SEG].", "It is the cup on the table: [SEG]")
  records = [prist_files.record(answer=answers[(i + seed) % 2]) for i in range(8)]
  records[BROKEN] = {"img_id": "a.png", "dialogue": [], "focus": None}
  image = prist_files.encode(prist_files.photo(seed=seed))
  return prist_files.write(root, records, split="train", image=image)


@pytest.fixture
def source(request, folders, tokenizer):
  return make(request.param, folders, tokenizer)


def make(kind, folders, tokenizer):
  """A fresh source of a kind; two of them share nothing."""
  a, b = (open_source(folder, "train") for folder in folders)
  if kind.startswith("packed"):
    below = a if kind == "packed" else mix([a, b], [1, 2])
    return packing.pack(below, below.sizes(tokenizer, CFG.text_options()), **LIMITS)
  return {
    "prist": lambda: a,
    "plain": lambda: Plain(a),
    "first": lambda: first_records(a, 5),
    "mixture": lambda: mix([a, b], [1, 2]),
  }[kind]()


every_kind = pytest.mark.parametrize("source", KINDS, indirect=True)


def loaded(source):
  """[(number, record or RecordError)] of all examples, in order."""
  out = []
  for i in range(len(source)):
    records = source.load(i)
    records = records if isinstance(records, tuple) else (records,)
    out += zip(source.members(i), records, strict=True)
  return out


@every_kind
def test_it_is_a_source(source):
  assert isinstance(source, Source) and isinstance(source.file, str)


@every_kind
def test_its_examples_end_where_its_length_says(source):
  assert source.load(len(source) - 1)
  for call in (source.load, source.members):
    with pytest.raises(IndexError):
      call(len(source))


@every_kind
def test_its_examples_hold_every_record_once(source):
  numbers = [number for number, _ in loaded(source)]
  assert sorted(numbers) == list(range(source.num_records()))


@every_kind
def test_a_defective_record_is_returned_and_no_other_is(source):
  defective = {n for n, r in loaded(source) if isinstance(r, RecordError)}
  assert defective == {n for n in range(source.num_records()) if n % 8 == BROKEN}


@every_kind
def test_image_ids_are_those_of_the_records(source):
  assert len(source.image_ids) == len(source)
  for i, image_id in enumerate(source.image_ids):
    records = source.load(i)
    for record in records if isinstance(records, tuple) else (records,):
      assert isinstance(record, RecordError) or record.image_id == image_id


@every_kind
def test_an_image_id_stands_for_one_image(source):
  images = {}
  for _, record in loaded(source):
    if not isinstance(record, RecordError):
      images.setdefault(record.image_id, set()).add(record.image)
  assert all(len(same) == 1 for same in images.values())
  assert len(images) == len(set().union(*images.values()))


@every_kind
def test_dialogues_are_what_the_records_say(source):
  dialogues = list(source.dialogues())
  for number, record in loaded(source):
    if isinstance(record, RecordError):
      assert dialogues[number] is None
    else:
      names = [name for name, _ in record.targets]
      assert dialogues[number] == (record.turns, names, True)
  assert len(dialogues) == source.num_records()


@every_kind
def test_sizes_are_those_of_the_rows(source, tokenizer):
  sizes = source.sizes(tokenizer, CFG.text_options())
  examples = Examples(source, tokenizer, CFG, report=str)
  assert len(sizes) == len(source)
  for i, size in enumerate(sizes):
    row = examples[i]
    if size is None:
      assert not row["loss_mask"].any()
    else:
      assert size.prefix + size.talk == (row["segments"] > 0).sum()
      assert size.segs == row["seg_valid"].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprints_are_json_equal_for_equal_data_only(kind, folders, tokenizer):
  first, again, other = (
    make(kind, pair, tokenizer).fingerprint()
    for pair in (folders, folders, folders[::-1])
  )
  assert json.loads(json.dumps(first)) == json.loads(json.dumps(again))
  assert first != other


@every_kind
def test_a_pipeline_reads_it(source, tokenizer):
  batch = next(make_pipeline(source, tokenizer, CFG, batch_size=2, report=str))
  assert batch["loss_mask"].any()


def test_a_mixture_names_a_defect_by_its_source(folders, tokenizer):
  lines = []
  source = make("packed_mixture", folders, tokenizer)
  examples = Examples(source, tokenizer, CFG, report=lines.append)
  for i in range(len(examples)):
    examples[i]
  assert [line.partition(": ")[0] for line in lines] == [
    f"0/train.json:{BROKEN}",
    f"1/train.json:{BROKEN}",
  ]


def test_a_record_of_a_mixture_past_a_limit_is_named_by_its_source(folders, tokenizer):
  lines = []
  source = make("mixture", folders, tokenizer)
  short = DataConfig(max_len=8, max_masks=3, sam_size=32, aux_size=16,
                     num_image_tokens=4)  # fmt: skip
  Examples(source, tokenizer, short, report=lines.append)[8]
  assert lines[0].startswith("1/train.json:0: ")


@pytest.mark.parametrize("in_memory", [False, True])
def test_sources_of_a_mixture_keep_their_own_images(folders, tokenizer, in_memory):
  mixed = Examples(make("mixture", folders, tokenizer), tokenizer, CFG, cache=in_memory)
  for k, folder in enumerate(folders):
    alone = Examples(open_source(folder, "train"), tokenizer, CFG)[0]
    np.testing.assert_array_equal(mixed[8 * k]["image_sam"], alone["image_sam"])


def test_rows_of_a_packed_mixture_are_drawn_by_weight(folders, tokenizer):
  source = make("packed_mixture", folders, tokenizer)
  ours = len(source.sources[0])
  pipeline = make_pipeline(source, tokenizer, CFG, batch_size=6, report=str, cache=True)
  drawn = np.concatenate([batch["record"] for batch in take(pipeline, 5)])
  assert (drawn < ours).sum() == 10 and (drawn >= ours).sum() == 20


def test_a_packed_mixture_gives_the_same_batches_again_and_after_a_resume(
  folders, tokenizer
):
  def open_pipeline(**options):
    source = make("packed_mixture", folders, tokenizer)
    return make_pipeline(source, tokenizer, CFG, batch_size=2, report=str, **options)

  pipeline = open_pipeline()
  first = take(pipeline, 2)
  state = pipeline.get_state()
  assert_equal(first, take(open_pipeline(), 2))
  assert_equal(take(pipeline, 2), take(open_pipeline(state=state), 2))


@pytest.mark.parametrize("limit, count", [(5, 5), (99, 8)])
def test_the_first_records_are_so_many_or_all(folders, limit, count):
  every = open_source(folders[0], "train")
  first = first_records(every, limit)
  assert len(first) == len(list(first.dialogues())) == count
  assert [first.load(i).id for i in (0, 1)] == [every.load(i).id for i in (0, 1)]


def test_the_first_records_of_packed_rows_are_refused(folders, tokenizer):
  with pytest.raises(ValueError, match="before"):
    first_records(make("packed", folders, tokenizer), 2)
