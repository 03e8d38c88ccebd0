"""A run that ends in the middle goes on; several processes and devices are one."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from miras_jax.errors import UserError
from miras_jax.evaluation import command as eval_command
from miras_jax.evaluation import parts as parts_lib
from miras_jax.evaluation import scoring
from miras_jax.evaluation.parts import Parts
from miras_jax.inference import rollout
from tests import prist_files
from tests.evaluation import test_command as usual
from tests.evaluation import tiny_eval
from tests.parallel import test_distributed as two


@pytest.fixture(autouse=True)
def no_teacher_forcing(request, monkeypatch):
  if "slow" not in request.keywords:
    monkeypatch.setattr(rollout.Forced, "masks", usual.no_masks)


def contents(folder):
  """What an evaluation found: all but when and where it was."""
  folder = pathlib.Path(folder)
  files = {n: (folder / n).read_bytes() for n in ("predictions.jsonl", "overlays.png")}
  found = json.loads((folder / "metrics.json").read_text())
  del found["provenance"]
  return files | {"metrics.json": json.dumps(found)}


def end_after(monkeypatch, name, count):
  """The run is cut off at the count-th call of a method of Scorer."""
  work, calls = getattr(scoring.Scorer, name), []

  def method(self, *args):
    calls.append(args)
    if len(calls) == count:
      raise KeyboardInterrupt
    return work(self, *args)

  monkeypatch.setattr(scoring.Scorer, name, method)


ITEMS = [prist_files.record() for _ in range(4)]


def run(tmp_path, monkeypatch, *flags):
  return usual.command(tmp_path, monkeypatch, *flags, items=list(ITEMS))


@pytest.mark.parametrize("name, count", [("job", 2), ("job", 6), ("forced", 3)])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
  tmp_path, monkeypatch, name, count
):
  flags = ("--batch_size=2",)
  run(tmp_path, monkeypatch, *flags)
  whole = contents(tmp_path / "out")
  with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
    end_after(cut, name, count)
    run(tmp_path, monkeypatch, *flags)
  part = tmp_path / "out" / ".parts" / "part-00000.jsonl"
  with open(part, "ab") as file:
    file.write(b'{"key": "talk/3", "us')  # half a line, as a kill leaves
  run(tmp_path, monkeypatch, *flags)
  assert contents(tmp_path / "out") == whole
  assert not part.parent.exists()


def test_what_is_done_is_not_asked_again(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(
    rollout.Rollout, "talk", lambda self, jobs, talk=rollout.Rollout.talk: (
      asked.append(len(jobs)) or talk(self, jobs)
    ),
  )  # fmt: skip
  with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
    end_after(cut, "forced", 1)
    run(tmp_path, monkeypatch)
  assert sum(asked) == 8  # four conversations, and the last turn of each
  run(tmp_path, monkeypatch)
  assert sum(asked) == 8


def test_predictions_hold_what_is_done_from_the_start_of_the_second_run(
  tmp_path, monkeypatch
):
  for _ in range(2):
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
      end_after(cut, "forced", 1)
      run(tmp_path, monkeypatch)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 4


def test_numbers_of_an_earlier_evaluation_never_lie_beside_other_predictions(
  tmp_path, monkeypatch
):
  run(tmp_path, monkeypatch, "--limit=2")
  with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
    end_after(cut, "job", 2)
    run(tmp_path, monkeypatch)
  assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
  "flag, words",
  [
    ("--history=gold", "half-done evaluation of history='model', not 'gold'"),
    ("--batch_size=3", "batch_size=2, not 3"),
    ("--limit=1", "limit=None, not 1"),
  ],
)
def test_other_options_do_not_go_on_with_what_is_there(
  tmp_path, monkeypatch, flag, words
):
  with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
    end_after(cut, "forced", 1)
    run(tmp_path, monkeypatch, "--batch_size=2")
  with pytest.raises(UserError, match=words):
    run(tmp_path, monkeypatch, "--batch_size=2", flag)


def test_a_setting_that_only_one_of_two_runs_has_tells_them_apart():
  """The usual state is left out of the settings, for half-done runs of earlier days."""
  settings = {"limit": None}
  gold = settings | {"state": "gold"}
  assert parts_lib.first_difference(gold, settings) == "state"
  assert parts_lib.first_difference(settings, gold) == "state"
  assert parts_lib.first_difference(settings, dict(settings)) == ""


def test_a_run_that_ended_before_its_first_result_is_in_nobodys_way(tmp_path):
  """A checkpoint that could not be read; the next command names a better one."""
  parts_lib.open_parts(tmp_path, {"checkpoint": "broken"})
  parts = parts_lib.open_parts(tmp_path, {"checkpoint": "sound"})
  with parts.appender() as file:
    file.write({"key": "talk/0"})
  with pytest.raises(UserError, match="half-done evaluation of checkpoint='sound'"):
    parts_lib.open_parts(tmp_path, {"checkpoint": "another"})


def test_other_data_do_not_go_on_with_what_is_there(tmp_path, monkeypatch):
  with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
    end_after(cut, "forced", 1)
    run(tmp_path, monkeypatch)
  other = [*ITEMS[:3], prist_files.record(answer="Here: [SEG].")]
  with pytest.raises(UserError, match="evaluation of records="):
    usual.command(tmp_path, monkeypatch, items=other)


def test_another_run_into_the_folder_is_refused(tmp_path, monkeypatch):
  (tmp_path / "out").mkdir()
  with eval_command.lock.hold(tmp_path / "out", "miras eval"):
    with pytest.raises(UserError, match="is in use by `miras eval`"):
      run(tmp_path, monkeypatch)


def test_a_damaged_part_is_one_line(tmp_path):
  (tmp_path / "part-00000.jsonl").write_text('{"key": "talk/0", "uses"\n')
  with pytest.raises(UserError, match="damaged"):
    Parts(tmp_path)["talk/0"]


def test_a_part_that_another_process_wrote_elsewhere_is_one_line(tmp_path):
  with pytest.raises(UserError, match="a folder that every process sees"):
    Parts(tmp_path)["talk/0"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """(data set, what an undisturbed run on one device wrote)."""
  root = tmp_path_factory.mktemp("alone")
  data = tiny_eval.write_data(root / "data")
  run_one(data, root / "out")
  return data, root / "out"


def command(data, out, *flags):
  return ["-m", "tests.evaluation.tiny_eval", f"--data={data}", f"--out={out}", *flags]


def run_one(data, out, *flags):
  """One process, of the devices that each of two has: XLA compiles the same."""
  alone = {"JAX_COORDINATOR_ADDRESS": "", "XLA_FLAGS": two.FLAGS}
  line = [sys.executable, *command(data, out, *flags)]
  subprocess.run(line, env=os.environ | alone, check=True, timeout=900)


def start_two(data, out):
  return two.start(command(data, out), command(data, out))


@pytest.mark.slow
def test_two_processes_write_what_one_writes(alone, tmp_path):
  data, before = alone
  statuses, printed, errors = two.finish(start_two(data, tmp_path), timeout=900)
  assert statuses == [0, 0], errors
  assert contents(tmp_path) == contents(before)
  assert "10 conversations" in printed[0][0] and not printed[1]


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_killed(alone, tmp_path, monkeypatch):
  data, before = alone
  monkeypatch.setenv("EVAL_SLOW_S", "0.5")
  processes, lines = start_two(data, tmp_path), tmp_path / "predictions.jsonl"
  two.wait_for(lambda: lines.exists() and lines.stat().st_size, processes)
  for process in processes:
    process.send_signal(signal.SIGKILL)
  two.finish(processes)
  assert (tmp_path / ".parts").is_dir()
  run_one(data, tmp_path)
  assert contents(tmp_path) == contents(before)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data:2,fsdp:2,tensor:2"])
def test_eight_devices_count_what_one_counts(alone, tmp_path, monkeypatch, mesh):
  data, before = alone
  tiny_eval.stand_in(monkeypatch.setattr)
  options = [*tiny_eval.OPTIONS, f"--data={data}", f"--out={tmp_path}"]
  assert eval_command.main([*options, f"--mesh={mesh}"]) == 0
  counts = [
    [[t["mask"] for t in line["targets"]] for line in lines_of(folder)]
    for folder in (tmp_path, before)
  ]
  assert counts[0] == counts[1]
  found, want = (
    json.loads((f / "metrics.json").read_text()) for f in (tmp_path, before)
  )
  # What the model thinks of its masks is no count: it may differ in the last bit.
  calibration = [x["metrics"].pop("ece")["value"] for x in (found, want)]
  assert calibration[0] == pytest.approx(calibration[1], rel=1e-5)
  assert found["metrics"] == want["metrics"]
  assert found["controls"] == want["controls"]


def lines_of(folder):
  return map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
