"""`mesh.plan`: what is chosen, said, kept and refused."""

import dataclasses
import math

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.planning import choice, plan_file, search, topology
from tests.planning.devices import Device, slice_of

V5E = slice_of("TPU v5 lite", 4, 4)


def config_of(size, **changes):
  made = config_file.load(f"miras_7b_stage2:size={size}")
  made.mesh.plan = "auto"
  made.update_from_flattened_dict(changes)
  return RunConfig.from_config_dict(made)


@pytest.fixture
def laid(monkeypatch):
  """Devices that are not there can be laid as one likes."""
  monkeypatch.setattr(choice, "_can_be_laid", lambda *_: True)


@pytest.fixture(scope="module")
def seven():
  config = config_of("7b")
  place = topology.hardware("v5e:4x4")
  return config, place, *choice.for_hardware(config, place, cached=True)


def test_the_choice_fits_covers_the_devices_and_keeps_the_conversations(seven):
  config, place, chosen, lines = seven
  found = search.model.estimate(chosen, place, cached=True)
  assert found["hbm_bytes"] < 0.9 * found["hbm_capacity"]
  assert math.prod(chosen.mesh.sizes.values()) == 16
  assert plan_file.conversations(chosen) == plan_file.conversations(config) == 240
  assert lines[0].startswith("mesh.plan=auto on v5e:4x4: ")


def test_the_choice_is_the_fastest_that_fits(seven):
  config, place, chosen, _ = seven
  found = search.candidates(config, place, cached=True, exact=True)
  best = next(one for one in found if one.fits)
  assert best.config == chosen


def test_a_faster_mesh_that_does_not_fit_is_named_with_its_memory(seven):
  lines = seven[-1]
  assert any("not data=16, remat=" in x and "more than 90% of 15.8" in x for x in lines)
  assert any("% slower" in x for x in lines)


def test_a_mesh_whose_fastest_does_not_fit_is_named_by_what_does_too(seven):
  named = [x.partition(":")[0] for x in seven[-1]]
  assert [x for x in named if "not fsdp=16, " in x] == [
    "  not fsdp=16, remat=dots, 1 micro-batch, pack=3",
    "  not fsdp=16, remat=full, 1 micro-batch, pack=3",
  ]


def test_the_config_as_it_was_written_is_compared_where_it_would_run():
  config = config_of("7b", **{"optim.accumulation": 5})
  _, lines = choice.for_hardware(config, topology.hardware("v6e:4x4"), cached=True)
  assert lines[-1].startswith("  not fsdp=16, remat=full, 5 micro-batches, pack=3: ")
  assert lines[-1].endswith("% slower, as the config says")


def test_a_row_of_given_length_keeps_its_conversations(seven):
  config, _, chosen, _ = seven
  assert config.data.max_len and chosen.data == config.data


def test_a_row_that_the_data_measure_may_hold_fewer():
  config = config_of("tiny")
  place = topology.hardware("v5e:2x2")
  found = search.candidates(config, place, exact=True)
  assert {one.config.data.pack for one in found} == {1, 2, 3}
  assert {plan_file.conversations(one.config) for one in found} == {240}
  assert {one.config.data.max_len for one in found} == {0}


def test_what_fsdp_cuts_is_tried_whole_and_not():
  found = search.candidates(config_of("tiny"), topology.hardware("v5e:2x2"), exact=True)
  cut = [one.mesh for one in found if one.mesh.fsdp > 1]
  assert {"on", "off"} <= {mesh.keep_gathered for mesh in cut}


def test_devices_of_unknown_memory_get_the_plain_mesh():
  devices = [Device("cpu")] * 8
  chosen, lines = choice.decide(config_of("tiny", batch_size=48), devices)
  assert (chosen.mesh.data, chosen.mesh.fsdp, chosen.mesh.tensor) == (8, 1, 1)
  assert chosen.optim.accumulation == 6  # 10 do not divide six rows
  assert len(lines) == 1 and "how much memory a 'cpu' has is not known" in lines[0]


def test_a_run_that_goes_on_chooses_nothing_anew(laid, monkeypatch):
  config = config_of("tiny", batch_size=32)
  saved, _ = choice.decide(config, V5E)
  assert saved.mesh.planned == "v5e:4x4"
  saved = RunConfig.from_json(saved.to_json())
  monkeypatch.delattr(search, "candidates")
  again, lines = choice.decide(config, V5E, saved)
  assert again == saved and "as when the run began" in lines[0]


def test_on_other_devices_it_is_laid_anew_and_its_rows_stay(laid):
  config = config_of("tiny", batch_size=32)
  saved, _ = choice.decide(config, V5E)
  again, lines = choice.decide(config, slice_of("TPU v6 lite", 2, 4), saved)
  assert "was laid over v5e:4x4, here are v6e:2x4" in lines[0]
  assert math.prod(again.mesh.sizes.values()) == 8
  assert (again.batch_size, again.data) == (saved.batch_size, saved.data)


def test_a_packing_that_was_chosen_stays(laid):
  config = config_of("tiny", batch_size=32)
  saved = search.with_pack(config, 1)
  saved = dataclasses.replace(
    saved, mesh=dataclasses.replace(saved.mesh, planned="v6e:2x2")
  )
  again, _ = choice.decide(config, V5E, saved)
  assert (again.data.pack, again.batch_size) == (1, 96)


def test_a_batch_that_no_mesh_divides_is_one_line():
  with pytest.raises(UserError, match="batch_size=7 .*--config.batch_size=16"):
    choice.for_hardware(config_of("tiny", batch_size=7), topology.hardware("v5e:4x4"))


def test_a_run_that_goes_on_is_not_told_to_change_its_rows():
  config = config_of("tiny", batch_size=32)
  saved, _ = choice.decide(config, [Device("cpu")] * 4)
  with pytest.raises(UserError, match="32 rows.*the run keeps its rows: go on with"):
    choice.decide(config, [Device("cpu")] * 3, saved)


@pytest.mark.parametrize("accumulation", [10**12, 32])
def test_micro_batches_are_no_more_than_the_rows(accumulation):
  changes = {"batch_size": 96, "optim.accumulation": accumulation}
  chosen, _ = choice.decide(config_of("tiny", **changes), [Device("cpu")] * 4)
  assert chosen.optim.accumulation == 24


def test_divisors_are_found_without_trying_every_number():
  assert search.divisors(12) == [1, 2, 3, 4, 6, 12]
  assert search.divisors(10**12)[-1] == 10**12


def test_a_model_that_is_too_large_is_one_line():
  with pytest.raises(UserError, match="nothing fits v5e:2x2: the leanest.* GiB"):
    choice.for_hardware(config_of("34b"), topology.hardware("v5e:2x2"))
