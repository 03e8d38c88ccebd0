"""Batches: the same for any hosts and threads, nothing lost."""

import ast
import dataclasses

import numpy as np
import pytest

from input_pipeline.conversation import encode_conversation, plain_texts
from input_pipeline.examples import Examples
from input_pipeline.pipeline import DataConfig, mix, shuffled
from input_pipeline.prist import read_dataset
from input_pipeline.tokenizer import train_bpe
from miras_jax.errors import UserError
from tests.input_pipeline.fake_records import (
  CFG,
  HEIGHT,
  WIDTH,
  Source,
  assert_equal,
  make,
  records,
  take,
  turns,
)
from tests.shared_data import DATA, ROOT, needs_data

SHAPES = {
  "image_sam": (16, 16, 3),
  "image_aux": (8, 8, 3),
  "tokens": (96,),
  "loss_mask": (96,),
  "positions": (96,),
  "segments": (96,),
  "image_slot": (96,),
  "seg_pos": (2,),
  "obj_pos": (2,),
  "seg_valid": (2,),
  "masks": (2, 16, 16),
  "valid_hw": (2,),
  "original_hw": (2,),
  "record": (),
}


def test_batch_has_the_contract_names_shapes_and_types(tokenizer):
  batch = next(make(Source(5), tokenizer))
  assert {k: v.shape for k, v in batch.items()} == {
    k: (4, *shape) for k, shape in SHAPES.items()
  }
  pixels = ("image_sam", "image_aux", "masks")
  assert all(batch[k].dtype == (np.uint8 if k in pixels else np.int32) for k in batch)


def test_example_is_padded_around_its_conversation(tokenizer):
  example = Examples(Source(5), tokenizer, CFG)[2]
  row = encode_conversation(turns(2), tokenizer, num_image_tokens=4)
  length = len(row.tokens_L)
  np.testing.assert_array_equal(example["tokens"][:length], row.tokens_L)
  assert (example["tokens"][length:] == tokenizer.ids.pad).all()
  assert example["segments"].sum() == length and example["segments"][:length].all()
  assert (example["image_slot"][length:] == -1).all()
  assert example["tokens"][example["seg_pos"][0]] == tokenizer.ids.seg
  assert list(example["seg_valid"]) == [1, 0]
  assert list(example["obj_pos"]) == [-1, -1]


def test_views_and_mask_share_the_sam_canvas(tokenizer):
  example = Examples(Source(5), tokenizer, CFG)[3]
  assert list(example["original_hw"]) == [HEIGHT, WIDTH]
  assert list(example["valid_hw"]) == [12, 16]
  assert (example["image_sam"][:12] == 3).all() and not example["image_sam"][12:].any()
  assert example["masks"][0, :4].all() and not example["masks"][0, 4:].any()
  assert not example["masks"][1].any()


@pytest.mark.parametrize("cache", [False, True])
def test_cached_examples_equal_fresh_ones(tokenizer, cache):
  fresh = take(make(Source(5), tokenizer), 6)
  cached = take(make(Source(5), tokenizer, cache=cache), 6)
  assert_equal(fresh, cached)


def test_cache_reads_each_record_once(tokenizer):
  source = Source(5)
  take(make(source, tokenizer, cache=True), 10)
  assert sorted(source.loads) == [0, 1, 2, 3, 4]


def test_cache_survives_a_caller_that_writes_into_its_batch(tokenizer):
  pipeline = make(Source(4), tokenizer, cache=True, shuffle=False)
  first = next(pipeline)
  before = {k: v.copy() for k, v in first.items()}
  for value in first.values():
    value[:] = 0
  assert_equal([before], [next(pipeline)])


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("threads", [0, 2])
def test_global_batches_do_not_depend_on_hosts_or_threads(tokenizer, hosts, threads):
  whole = take(make(Source(10), tokenizer), 6)
  parts = [
    make(Source(10), tokenizer, host_index=h, host_count=hosts, num_threads=threads)
    for h in range(hosts)
  ]
  for batch in whole:
    rows = [next(part) for part in parts]
    joined = {k: np.concatenate([r[k] for r in rows]) for k in batch}
    assert_equal([batch], [joined])
  for part in parts:
    part.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_gives_the_identical_continuation(tokenizer, threads):
  pipeline = make(Source(10), tokenizer)
  take(pipeline, 3)
  state = pipeline.get_state()
  wanted = take(pipeline, 4)
  again = make(Source(10), tokenizer, state=state, num_threads=threads)
  assert_equal(wanted, take(again, 4))
  again.set_state(state)
  assert_equal(wanted, take(again, 4))
  again.close()


def test_state_is_the_number_of_examples_whatever_the_hosts(tokenizer):
  one = make(Source(10), tokenizer)
  two = make(Source(10), tokenizer, host_index=1, host_count=2)
  take(one, 3), take(two, 3)
  assert one.get_state() == two.get_state()
  assert one.get_state()["next_index"] == 12


def test_resume_with_another_batch_size_and_host_count_loses_nothing(tokenizer):
  size = 24
  pipeline = make(Source(size), tokenizer, batch_size=8)
  seen = records(take(pipeline, 1))
  state = pipeline.get_state()
  parts = [
    make(Source(size), tokenizer, batch_size=4, host_index=h, host_count=2, state=state)
    for h in range(2)
  ]
  seen += records(take(parts[0], 4)) + records(take(parts[1], 4))
  assert sorted(seen) == list(range(size))


def test_resume_on_other_data_is_refused(tokenizer):
  state = make(Source(10), tokenizer).get_state()
  with pytest.raises(UserError, match="another data set, seed or shuffle"):
    make(Source(11), tokenizer, state=state)
  with pytest.raises(UserError, match="another data set, seed or shuffle"):
    make(Source(10), tokenizer, seed=4, state=state)


def test_every_epoch_has_each_example_once_in_its_own_order(tokenizer):
  seen = records(take(make(Source(10), tokenizer, batch_size=2), 15))
  epochs = [seen[i : i + 10] for i in (0, 10, 20)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != list(range(10))


def test_batches_across_the_end_of_an_epoch_lose_and_double_nothing(tokenizer):
  seen = records(take(make(Source(10), tokenizer), 5))
  assert sorted(seen) == sorted([*range(10), *range(10)])


def test_seeds_give_different_orders(tokenizer):
  orders = [records(take(make(Source(30), tokenizer, seed=s), 7)) for s in (0, 1)]
  assert orders[0] != orders[1]


def test_shuffled_is_a_permutation_fixed_for_ever():
  assert sorted(shuffled(1000, seed=5, epoch=2)) == list(range(1000))
  # SplitMix64 worked out with Python integers.
  mask = 2**64 - 1

  def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)

  start = mix64(mix64(5) ^ 2)
  wanted = sorted(range(20), key=lambda i: mix64(i ^ start))
  assert list(shuffled(20, seed=5, epoch=2)) == wanted


def test_shuffle_has_no_visible_bias():
  places = np.stack([shuffled(8, seed=s, epoch=0) for s in range(4000)])
  counts = np.stack([np.bincount(column, minlength=8) for column in places.T])
  assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("hosts", [1, 2])
def test_one_pass_is_ordered_and_fills_its_last_batch(tokenizer, hosts):
  parts = [
    make(
      Source(6), tokenizer, shuffle=False, repeat=False, host_index=h, host_count=hosts
    )
    for h in range(hosts)
  ]
  batches = [list(part) for part in parts]
  assert all(len(b) == parts[0].steps_per_epoch == 2 for b in batches)
  rows = [r for step in zip(*batches, strict=True) for r in records(step)]
  assert rows == [0, 1, 2, 3, 4, 5, -1, -1]
  last = batches[-1][-1]
  assert not last["loss_mask"][-1].any() and not last["seg_valid"][-1].any()
  assert parts[-1].zero_weight == 0


def test_one_pass_on_threads_is_the_same(tokenizer):
  options = {"shuffle": False, "repeat": False}
  plain = list(make(Source(7), tokenizer, **options))
  assert_equal(plain, list(make(Source(7), tokenizer, num_threads=2, **options)))


def test_mixture_draws_by_weight_and_repeats_small_sources(tokenizer):
  source = mix([Source(50), Source(3)], [3.0, 1.0])
  seen = records(take(make(source, tokenizer), 50))
  small = [r for r in seen if r >= 50]
  assert abs(len(small) - 50) <= 1
  assert [small[i : i + 3] for i in range(0, 3)] and set(small) == {50, 51, 52}
  big = [r for r in seen if r < 50]
  assert sorted(big[:50]) == list(range(50))


def test_mixture_resumes(tokenizer):
  source = mix([Source(5), Source(3)], [1.0, 2.0])
  pipeline = make(source, tokenizer)
  take(pipeline, 3)
  again = make(source, tokenizer, state=pipeline.get_state())
  assert_equal(take(pipeline, 3), take(again, 3))


def test_mixture_in_one_pass_has_every_record_once(tokenizer):
  source = mix([Source(5), Source(3)], [1.0, 2.0])
  seen = records(make(source, tokenizer, repeat=False, shuffle=False))
  assert seen == list(range(8))


def test_bad_requests_are_one_line(tokenizer):
  with pytest.raises(UserError, match="batch_size=4 does not divide among 3 hosts"):
    make(Source(5), tokenizer, host_count=3)
  with pytest.raises(UserError, match="holds no record"):
    make(Source(0), tokenizer)
  with pytest.raises(UserError, match="not all positive"):
    mix([Source(5)], [0.0])
  with pytest.raises(UserError, match="1 sources but 2 weights"):
    mix([Source(5)], [1.0, 1.0])


@pytest.mark.parametrize(
  "change", [{"view": "stretch"}, {"template": "x"}, {"max_masks": 0}, {"max_len": 4}]
)
def test_data_config_checks_itself(change):
  fields = {f: getattr(CFG, f) for f in CFG.__dataclass_fields__}
  with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
    DataConfig(**(fields | change))


def test_input_pipeline_imports_neither_jax_nor_a_model():
  files = sorted((ROOT / "input_pipeline").rglob("*.py"))
  assert len(files) > 5
  for file in files:
    for node in ast.walk(ast.parse(file.read_text())):
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      for name in names:
        assert name.split(".")[0] not in ("jax", "flax", "optax", "torch"), file
        assert not name.startswith("miras_jax.models"), file


@pytest.mark.parametrize(
  "folder",
  [
    "53_image_token_typed_by_user",
    "54_seg_token_typed_by_user",
    "55_chat_markup_typed_by_user",
    "51_rtl_and_emoji",
  ],
)
@needs_data
def test_text_that_users_type_stays_data(folder):
  dataset = read_dataset(DATA / "malformed" / folder, "test")
  tokenizer = train_bpe(plain_texts(turns(0)), 400)
  cfg = dataclasses.replace(CFG, max_len=1024)
  example = Examples(dataset, tokenizer, cfg)[0]
  record = dataset[0]
  assert example["seg_valid"].sum() == len(record.targets) == 1
  assert (example["image_slot"] >= 0).sum() == cfg.num_image_tokens
  text = tokenizer.decode(example["tokens"][example["segments"] > 0])
  assert all(said in text for _, said in record.turns)


@needs_data
def test_real_photographs_become_examples_without_a_problem():
  dataset = read_dataset(DATA / "prist_real_mini", "val")
  texts = [t for entry in dataset.entries for t in plain_texts(entry.turns)]
  cfg = DataConfig(
    max_len=256, max_masks=1, sam_size=32, aux_size=32, num_image_tokens=16
  )
  pipeline = make(
    dataset, train_bpe(texts, 1500), cfg, repeat=False, shuffle=False, num_threads=2
  )
  batches = list(pipeline)
  assert records(batches)[: len(dataset)] == list(range(len(dataset)))
  assert not len(pipeline.problems)
  seg = [int(m.sum()) for b in batches for m in b["masks"][b["record"] >= 0]]
  assert len(seg) == len(dataset) and min(seg) > 0
