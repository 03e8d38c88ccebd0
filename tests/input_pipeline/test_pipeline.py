"""Batches: the same for any hosts and threads, nothing lost, defects named."""

import ast

import numpy as np
import pytest

from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig
from input_pipeline.mixture import mix
from input_pipeline.order import shuffled
from input_pipeline.prist import read_dataset
from input_pipeline.tokenizer import train_bpe
from miras_jax.errors import UserError
from tests.input_pipeline.fakes import (
  Source,
  assert_equal,
  make,
  records,
  take,
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


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_defective_record_is_named_once_and_weighs_nothing(tokenizer, cache, threads):
  lines = []
  pipeline = make(
    Source(8, bad=(5,)),
    tokenizer,
    cache=cache,
    num_threads=threads,
    report=lines.append,
  )
  batches = take(pipeline, 6)
  pipeline.close()
  assert lines == ["train.json:5: no such file (trains with weight zero)"]
  assert pipeline.zero_weight == 3 and list(pipeline.problems.by_index) == [5]
  for batch in batches:
    weightless_B = ~batch["loss_mask"].any(1) & ~batch["seg_valid"].any(1)
    np.testing.assert_array_equal(weightless_B, batch["record"] == 5)


def test_defective_records_do_not_change_the_order_of_the_others(tokenizer):
  good = records(take(make(Source(8), tokenizer), 6))
  assert records(take(make(Source(8, bad=(1, 5)), tokenizer), 6)) == good


def test_defects_go_to_the_log_when_nobody_asks(tokenizer, caplog):
  pipeline = make(Source(4, bad=(1,)), tokenizer, report=None)
  next(pipeline)
  assert [r.getMessage() for r in caplog.records] == [
    "train.json:1: no such file (trains with weight zero)"
  ]


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


@needs_data
def test_real_photographs_become_examples_without_a_problem():
  dataset = read_dataset(DATA / "prist_real_mini", "val")
  texts = [t for said in dataset.dialogues() for t in plain_texts(said.turns)]
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


def test_a_pass_that_meets_no_sound_record_ends_with_their_count(tokenizer):
  pipeline = make(Source(6, bad=range(6)), tokenizer)
  pipeline.needs_sound = True
  with pytest.raises(UserError, match="8 times a defective one, the first: train"):
    take(pipeline, 100)


def test_defective_records_right_after_a_restart_are_not_all_there_are(tokenizer):
  pipeline = make(Source(8, bad=(0, 1)), tokenizer, shuffle=False)
  pipeline.needs_sound = True
  pipeline.set_state(pipeline.get_state() | {"next_index": 8})
  assert take(pipeline, 2)
