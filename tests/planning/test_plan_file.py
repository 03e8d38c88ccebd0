"""A plan as a file: written, read back, refused."""

import dataclasses
import json
import os
import re

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.planning import choice, plan_file
from miras_jax.scale import command
from tests.planning.devices import slice_of

SMALL = "miras_7b_stage2:size=tiny"
V5E = slice_of("TPU v5 lite", 2, 2)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp("plans") / "new/plan.json"
  arguments = [f"--config={SMALL}", "--topology=v5e:2x2", "--search", "--estimate"]
  assert command.main([*arguments, f"--write={path}"]) == 0
  return path.read_text()


@pytest.fixture
def path(text, tmp_path):
  path = tmp_path / "plan.json"
  path.write_text(text)
  return path


def config_with(path, **changes):
  made = config_file.load(SMALL)
  made.mesh.plan = str(path)
  made.update_from_flattened_dict(changes)
  return RunConfig.from_config_dict(made)


def test_the_best_of_a_search_is_what_a_run_takes(path):
  chosen, lines = choice.decide(config_with(path), V5E)
  written = json.loads(path.read_text())
  assert plan_file.fields(chosen) == written["config"]
  assert written["found"]["source"] == "model" and written["reasons"]
  assert chosen.mesh.planned == "v5e:2x2" and "as the file says" in lines[0]


def test_a_run_that_goes_on_needs_the_file_no_more(path):
  config = config_with(path)
  saved, _ = choice.decide(config, V5E)
  path.unlink()
  assert choice.decide(config, V5E, saved)[0] == saved


@pytest.mark.parametrize(
  "change, words",
  [
    ({"topology": "v6e:4x4"}, "is for v6e:4x4, the devices here are v5e:2x2"),
    ({"model": "7b"}, "is for 7b, model.variant=tiny.*--search --write=FILE"),
    ({"conversations": 90}, "90 conversations a step.*--config.batch_size=30"),
    ({"conversations": 91}, "91 conversations a step.*--search --write=FILE"),
    ({"conversations": 0}, "0 conversations a step.*--search --write=FILE"),
    ({"config": {"mesh.data": 3}}, "does not fit 4 device.*--search --write=FILE"),
    ({"config": {"optim.accumulation": 7}}, "do not divide into optim.accumulation=7"),
    ({"config": {"mesh.dta": 4}}, "unknown field 'mesh.dta'.*mesh.data"),
    ({"config": {"optim.lr": 1.0}}, "unknown field 'optim.lr'"),
    ({"config": {"mesh.data": "4"}}, "mesh.data='4': want a value of type int"),
    ({"config": {"mesh.data": True}}, "mesh.data=True: want a value of type int"),
    ({"config": {"mesh.data": 0}}, "mesh sizes must be"),
    ({"config": {"data.pack": 5}}, "data.pack=5"),
    ({"config": {"optim.accumulation": 0}}, "accumulation=0"),
    ({"config": {"model.overrides.llama.remat": "half"}}, "half"),
    ({"config": []}, "no 'config' in it"),
  ],
)
def test_a_file_that_does_not_suit_is_one_line(path, change, words):
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(UserError, match=words) as error:
    choice.decide(config_with(path), V5E)
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\0", "{}"])
def test_a_file_that_is_no_plan_is_one_line(path, text):
  path.write_text(text)
  with pytest.raises(UserError, match="not a plan of miras scale --search --write"):
    choice.decide(config_with(path), V5E)


def test_a_pipe_is_no_plan_and_is_not_waited_for(tmp_path):
  pipe = tmp_path / "plan.json"
  os.mkfifo(pipe)
  with pytest.raises(UserError, match="not a plan of miras scale --search --write"):
    choice.decide(config_with(pipe), V5E)


def test_a_missing_file_says_how_to_make_one(tmp_path):
  with pytest.raises(UserError, match="no such file.*--search --write=FILE"):
    choice.decide(config_with(tmp_path / "none.json"), V5E)


def test_a_plan_for_a_cache_is_not_for_a_run_without(path):
  path.write_text(json.dumps(json.loads(path.read_text()) | {"cached": True}))
  with pytest.raises(UserError, match="features of a cache.*--config.data.cache=DIR"):
    choice.decide(config_with(path), V5E)
  assert choice.decide(config_with(path, **{"data.cache": "features"}), V5E)


def test_what_a_search_writes_the_same_config_takes(tmp_path, capsys):
  path = tmp_path / "plan.json"
  batch = ["--config.batch_size=10", "--config.optim.accumulation=1"]
  wanted = [f"--config={SMALL}", "--topology=v5e:2x2", "--search", "--estimate"]
  assert command.main([*wanted, *batch, f"--write={path}"]) == 0
  said = capsys.readouterr().out
  assert f"--config.mesh.plan={path} takes it" in said and "  not " in said
  assert re.search(r"with --cached .*: \d+% faster", said)
  changes = {"batch_size": 10, "optim.accumulation": 1}
  chosen, _ = choice.decide(config_with(path, **changes), V5E)
  assert plan_file.conversations(chosen) == 30


def test_a_batch_of_another_size_is_refused(path):
  with pytest.raises(UserError, match="240 conversations a step"):
    choice.decide(config_with(path, batch_size=40), V5E)


def test_a_search_writes_one_file_for_one_topology(path):
  wanted = [f"--config={SMALL}", "--estimate", f"--write={path}"]
  with pytest.raises(UserError, match="--search: add it"):
    command.main([*wanted, "--topology=v5e:2x2"])
  with pytest.raises(UserError, match="of one topology, not 2"):
    command.main([*wanted, "--topology=v5e:2x2,4x4", "--search"])


def test_scale_weighs_what_the_plan_says(path, capsys):
  arguments = [f"--config={SMALL}", f"--config.mesh.plan={path}", "--topology=v5e:2x2"]
  assert command.main([*arguments, "--estimate"]) == 0
  assert f"mesh.plan={path} on v5e:2x2: " in capsys.readouterr().out


def test_rows_follow_from_the_packing():
  config = config_with("")
  data = dataclasses.replace(config.data, max_len=316)
  config = dataclasses.replace(config, data=data)
  changed = plan_file.applied(config, {"data.pack": 1})
  assert plan_file.conversations(changed) == plan_file.conversations(config)
  assert changed.data.max_len < 316
