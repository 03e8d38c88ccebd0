"""Packing as one more choice: rows, tokens and conversations stay consistent."""

import dataclasses

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.planning import model, search, topology


@pytest.fixture(scope="module")
def config():
  made = RunConfig.from_config_dict(config_file.load("miras_7b_stage2:size=tiny"))
  data = dataclasses.replace(made.data, pack=3, max_len=316, max_masks=6)
  return dataclasses.replace(made, data=data)


def test_every_packing_up_to_the_configs_own_is_tried(config):
  found = search.candidates(config, topology.hardware("v5e:2x2"))
  assert {one.config.data.pack for one in found} == {1, 2, 3}


def test_a_shorter_row_holds_the_image_and_its_conversations(config):
  image = config.model.build().num_image_tokens
  alone = search.with_pack(config, 1)
  assert alone.data.max_len - image == (316 - image) / 3
  assert (alone.data.max_masks, alone.batch_size) == (2, 3 * config.batch_size)


def test_throughput_counts_conversations(config):
  entry = model.estimate(config, "v5e:2x2")
  assert entry["examples_per_s"] == pytest.approx(3 * entry["rows_per_s"])


def test_the_best_are_those_of_most_conversations_a_second(config):
  def rate(entry):
    return entry["batch_size"] * entry["pack"] / entry["step_time_no_overlap_s"]

  found = search.candidates(config, topology.hardware("v5e:2x2"))
  rates = [rate(one.entry) for one in found]
  assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]
