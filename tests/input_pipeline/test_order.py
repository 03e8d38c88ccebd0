"""A mixture's order: the same on any hosts, and taken over by another mixture."""

import logging

import numpy as np
import pytest

from input_pipeline.mixture import mix
from miras_jax.errors import UserError
from tests.input_pipeline.fakes import Source, assert_equal, make, records, take

SIZES = {"big": 40, "mid": 12, "small": 5}


def mixture(**weights):
  """A Mixture of the fake sources of these names, each with its SIZES examples."""
  sources = [Source(SIZES[name]) for name in weights]
  return mix(sources, weights.values(), list(weights))


def drawn(source, batches):
  """{name: its examples in the order in which they were drawn}."""
  found = {name: [] for name in source.names}
  for example in records(batches):
    k, i = source.locate(example)
    found[source.names[k]].append(i)
  return found


def from_start(source, tokenizer, count):
  """The first `count` examples of each source of a mixture, in order, of a long run."""
  long = drawn(source, take(make(source, tokenizer), 60))
  return {name: order[:count] for name, order in long.items()}


@pytest.mark.parametrize("threads", [0, 2])
def test_a_mixture_goes_on_exactly_on_one_then_two_then_four_hosts(tokenizer, threads):
  source = mixture(big=3, small=1)
  whole = make(source, tokenizer)
  wanted, state = take(whole, 6), None
  for hosts, part in ((1, wanted[:2]), (2, wanted[2:4]), (4, wanted[4:])):
    options = {"host_count": hosts, "num_threads": threads, "state": state}
    hosts = [make(source, tokenizer, host_index=h, **options) for h in range(hosts)]
    for batch in part:
      rows = [next(host) for host in hosts]
      assert_equal([batch], [{k: np.concatenate([r[k] for r in rows]) for k in batch}])
    states = [host.get_state() for host in hosts]
    state = states[0]
    assert all(other == state for other in states)
    for host in hosts:
      host.close()
  assert state == whole.get_state()


def test_a_small_source_is_shuffled_anew_in_every_pass(tokenizer):
  source = mixture(big=1, small=3)
  small = drawn(source, take(make(source, tokenizer), 5))["small"]
  passes = [small[i : i + 5] for i in (0, 5, 10)]
  assert all(sorted(one) == list(range(5)) for one in passes)
  assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("hosts, threads", [(1, 0), (2, 2), (4, 0)])
def test_other_weights_go_on_where_each_source_was(tokenizer, hosts, threads):
  before, after = mixture(big=3, small=1), mixture(big=1, small=1)
  pipeline = make(before, tokenizer)
  seen = drawn(before, take(pipeline, 7))
  parts = [
    make(after, tokenizer, state=pipeline.get_state(), num_threads=threads,
         host_index=h, host_count=hosts)
    for h in range(hosts)
  ]  # fmt: skip
  steps = [[next(part) for part in parts] for _ in range(5)]
  more = drawn(after, [batch for step in steps for batch in step])
  for part in parts:
    part.close()
  for name, order in from_start(before, tokenizer, 31).items():
    together = seen[name] + more[name]
    assert together == order[: len(together)]
  assert [len(more[name]) for name in ("big", "small")] == [10, 10]


def test_a_changed_mixture_goes_on_from_its_own_state(tokenizer):
  first = make(mixture(big=3, small=1), tokenizer)
  take(first, 7)
  second = make(mixture(big=1, small=1), tokenizer, state=first.get_state())
  take(second, 2)
  wanted = take(make_again(second, mixture(big=1, small=1), tokenizer), 3)
  assert_equal(wanted, take(second, 3))


def make_again(pipeline, source, tokenizer):
  return make(source, tokenizer, state=pipeline.get_state())


def test_a_source_that_comes_later_begins_and_the_others_go_on(tokenizer):
  before, after = mixture(big=1, small=1), mixture(big=1, mid=2, small=1)
  first = make(before, tokenizer)
  seen = drawn(before, take(first, 4))
  more = drawn(after, take(make_again(first, after, tokenizer), 4))
  orders = from_start(after, tokenizer, 12)
  assert more["mid"] == orders["mid"][:8]
  for name in ("big", "small"):
    assert seen[name] + more[name] == orders[name][:12]


def test_a_source_that_was_left_out_for_a_while_goes_on(tokenizer):
  both, alone = mixture(big=1, small=1), mixture(big=1)
  first = make(both, tokenizer)
  seen = drawn(both, take(first, 2))["small"]
  second = make_again(first, alone, tokenizer)
  take(second, 3)
  third = make_again(second, both, tokenizer)
  more = drawn(both, take(third, 2))
  orders = from_start(both, tokenizer, 30)
  assert seen + more["small"] == orders["small"][:8]
  assert more["big"] == orders["big"][4 + 12 : 4 + 12 + 4]


def test_a_change_is_said_with_both_mixtures(tokenizer, caplog):
  first = make(mixture(big=3, small=1), tokenizer)
  with caplog.at_level(logging.WARNING, "input_pipeline"):
    make_again(first, mixture(big=3, small=1), tokenizer)
    assert not caplog.records
    make_again(first, mixture(big=1.5, mid=2), tokenizer)
  assert [record.getMessage() for record in caplog.records] == [
    "the mixture changed: it was big 3, small 1; from here on it is big 1.5, mid 2;"
    " each source goes on where it was"
  ]


def test_another_data_set_under_a_name_is_refused(tokenizer, monkeypatch):
  state = make(mixture(big=3, small=1), tokenizer).get_state()
  monkeypatch.setitem(SIZES, "small", 6)
  with pytest.raises(UserError, match="small is another data set than when"):
    make(mixture(big=3, small=1), tokenizer, state=state)


def test_another_seed_is_no_other_mixture(tokenizer):
  state = make(mixture(big=3, small=1), tokenizer).get_state()
  with pytest.raises(UserError, match="another data set, seed or shuffle"):
    make(mixture(big=1, small=1), tokenizer, seed=4, state=state)


def test_one_data_set_does_not_become_a_mixture(tokenizer):
  state = make(Source(40), tokenizer).get_state()
  with pytest.raises(UserError, match="another data set, seed or shuffle"):
    make(mixture(big=1), tokenizer, state=state)


def test_the_order_of_a_source_does_not_depend_on_the_others(tokenizer):
  alone = from_start(mixture(small=1), tokenizer, 10)["small"]
  assert from_start(mixture(big=1, small=1), tokenizer, 10)["small"] == alone
