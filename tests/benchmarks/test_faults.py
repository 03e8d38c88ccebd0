"""What `miras bench faults` promises, on a small share of its faults."""

import argparse
import json

import pytest

from miras_jax import cli
from miras_jax.benchmarks import faults


def test_every_harmful_flip_is_named_and_the_step_before_it_used(tmp_path):
  args = argparse.Namespace(flips=16, seed=1)
  result = faults.flips(tmp_path, args)
  assert not result["missed"], result
  assert result[faults.FINE[1]] > 0  # some of them did harm


@pytest.mark.slow
def test_killed_runs_go_on_bit_identically(tmp_path):
  # Narrower than by default, where the steps take most of a minute without XLA's
  # optimisation: a save is shorter, and still hit.
  out = tmp_path / "result.json"
  argv = ["bench", "faults", "--only=kills", "--kills=4", "--width=384", f"--out={out}"]
  assert cli.main(argv) == 0
  result = json.loads(out.read_text())["kills"]
  assert result["steps lost at most"] <= faults.LOST * faults.EVERY
  assert result["during a save"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("group", ["disk", "numbers"])
def test_a_full_disk_and_odd_numbers_are_survived(group, tmp_path):
  assert cli.main(["bench", "faults", f"--only={group}"]) == 0
