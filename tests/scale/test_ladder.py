"""The ladder's plan, what it takes over, and its page; nothing is trained here."""

import json
import re

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.scale import ladder, ladder_report
from tests import prist_files

BUDGET = 1e11


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(config, folder, rungs) of three rungs on six conversations."""
  root = tmp_path_factory.mktemp("ladder")
  for split in ("train", "val"):
    prist_files.write(root / "data", [prist_files.record()] * 6, split=split)
  c = config_file.load("prist_quickstart")
  c.data.update(dir=str(root / "data"), vocab_size=400)
  c.batch_size = 2
  config = RunConfig.from_config_dict(c)
  return config, root, ladder.plan(config, root / "out", budget=BUDGET, rungs=3)


def result(rung, loss, ciou):
  made = {"value": ciou, "low": ciou - 0.02, "high": ciou + 0.02, "n": 6}
  scores = {"loss": loss, "ciou": made, "ciou_forced": made, "held_out": 6}
  return ladder._described(rung) | scores | {"parameters": 9, "train_s": 1.0}


def test_every_rung_has_twice_the_flops_of_the_one_before(world):
  *_, rungs = world
  flops = [r.flops for r in rungs]
  assert flops[-1] == pytest.approx(BUDGET, rel=0.05)
  assert flops[2] / flops[1] == pytest.approx(2, rel=0.1)
  widths = [r.config.model.build().llama.width for r in rungs]
  assert widths == [32, 32, 48] and rungs[0].config.data.tokenizer


def test_a_budget_without_steps_is_refused(world):
  config, root, _ = world
  with pytest.raises(UserError, match="budget=1e.06.*FLOPs a step"):
    ladder.plan(config, root / "out", budget=1e6, rungs=2)


def test_a_finished_rung_is_taken_over_and_another_one_refused(world):
  *_, root, rungs = world
  first, second = rungs[:2]
  (root / first.name).mkdir()
  saved = {"settings": first.settings, "result": result(first, 5.0, 0.1)}
  (root / first.name / "rung.json").write_text(json.dumps(saved))
  assert ladder.finished(first, root)["loss"] == 5.0
  assert ladder.finished(second, root) is None
  with pytest.raises(UserError, match="trained with another.*steps"):
    ladder.finished(second._replace(name=first.name), root)


def test_the_page_shows_the_exponents_with_their_bands(world, tmp_path):
  *_, rungs = world
  scores = [(5.0, 0.1), (4.5, 0.15), (4.1, 0.2)]
  found = [result(r, *s) for r, s in zip(rungs, scores, strict=True)]
  made = {"budget": BUDGET, "rungs": found, "fits": ladder.fits(found)}
  ladder_report.write(tmp_path, made)
  exponent = made["fits"]["loss"]["b"]
  said = re.search(r"loss = .*exponent ([\d.]+) \[", ladder_report.table(made))
  assert float(said[1]) == pytest.approx(exponent, abs=1e-4) and exponent > 0
  assert f"{exponent:.4f}" in (tmp_path / "ladder.html").read_text()
  assert json.loads((tmp_path / "ladder.json").read_text())["rungs"] == found
