"""Two processes are one program: same losses, same stop, one log, one error."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from miras_jax.benchmarks import toy_run
from miras_jax.checkpoint import workdir
from miras_jax.config.settings import DistributedConfig, MeshConfig
from miras_jax.errors import UserError
from miras_jax.parallel import distributed
from miras_jax.parallel import mesh as mesh_lib
from tests import prist_files

STEPS = 20
# Four devices each, compiled as quickly as in this process.
_QUICK = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
FLAGS = " ".join([*_QUICK, "--xla_force_host_platform_device_count=4"])


OPENS_DATA = """
import sys
from miras_jax import options
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import DataChoice, DistributedConfig
from miras_jax.parallel import distributed
from miras_jax.training import sources

def main(argv):
  distributed.start(DistributedConfig(join_s=int(argv[0])))
  config = RunConfig(data=DataChoice(dir=argv[1]))
  distributed.together(sources.open_splits, config)

options.run(main)
"""


def launch(folder, *options, own=((), ())):
  """Starts two processes of the toy run; `own`: options of each."""
  command = ["-m", "miras_jax.benchmarks.toy_run", f"--workdir={folder}", *options]
  return start([*command, *own[0]], [*command, *own[1]])


def start(*commands):
  """Starts python with each of two commands, as processes of four devices."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": FLAGS,
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": "2",
  }
  return [
    subprocess.Popen(
      [sys.executable, *command],
      env=env | {"JAX_PROCESS_ID": str(i)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=pathlib.Path(__file__).parents[2],
    )
    for i, command in enumerate(commands)
    if command
  ]


def finish(processes, timeout=240):
  """(exit statuses, lines of standard output, of errors), gloo's own left out."""
  texts = [p.communicate(timeout=timeout) for p in processes]
  outputs, errors = (
    [[t for t in text.splitlines() if "peer ranks" not in t] for text in stream]
    for stream in zip(*texts, strict=True)
  )
  return [p.returncode for p in processes], outputs, errors


def wait_for(condition, processes):
  while not condition():
    assert all(p.poll() is None for p in processes), finish(processes)
    time.sleep(0.1)


def run_here(folder, devices, **mesh):
  """The same run in this process."""
  sizes = ",".join(f"{name}={size}" for name, size in mesh.items())
  args = toy_run.parser().parse_args(
    [f"--workdir={folder}", f"--steps={STEPS}", f"--mesh={sizes}"]
  )
  config = toy_run.make_config(args)
  made = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
  task = toy_run.make_task(config, args, (0, 1))
  assert toy_run.loop.train(task, workdir.Workdir(folder), made) == 0
  return losses(folder)


def losses(folder):
  lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """Losses of an undisturbed run on one device."""
  return run_here(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.parametrize(
  "mesh",
  [
    {"dcn_data": 8, "data": 1},
    {"data": 8},
    {"data": 1, "fsdp": 8},
    {"data": 1, "tensor": 8},
    {"data": 1, "sequence": 8},
    {"dcn_data": 2, "data": 1, "fsdp": 2, "tensor": 2},
  ],
  ids=lambda mesh: "-".join(name for name, size in mesh.items() if size > 1),
)
def test_eight_devices_have_the_losses_of_one_on_every_axis(mesh, straight, tmp_path):
  np.testing.assert_allclose(run_here(tmp_path, 8, **mesh), straight, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on_with_the_losses_of_one(
  straight, tmp_path
):
  options = (f"--steps={STEPS}", "--mesh=data=2,fsdp=-1", "--slow=0.2")
  processes = launch(tmp_path, *options)
  metrics = tmp_path / "metrics.jsonl"
  wait_for(lambda: metrics.exists() and metrics.stat().st_size, processes)
  processes[1].send_signal(signal.SIGTERM)
  statuses, printed, errors = finish(processes)
  assert statuses == [0, 0], errors
  stopped = workdir.Workdir(tmp_path).steps()[-1]
  assert stopped == len(losses(tmp_path)) < STEPS
  assert f"step {stopped} of {STEPS}, stopped by SIGTERM" in printed[0][-1]
  assert not printed[1] and not any("compiled" in line for line in errors[1])
  # What two processes saved, one process with another mesh goes on from.
  resumed = run_here(tmp_path, 8, data=-1, tensor=2)
  np.testing.assert_allclose(resumed, straight, rtol=1e-5)


@pytest.mark.slow
def test_processes_with_other_configs_end_with_one_line(tmp_path):
  processes = launch(tmp_path, own=(("--lr=0.003",), ("--lr=0.004",)))
  statuses, _, errors = finish(processes)
  assert statuses == [1, 1]
  for lines in errors:
    assert len(lines) == 1 and "optim.lr is 0.003 in process 0 and 0.004" in lines[0]
  assert not (tmp_path / "checkpoints").exists()


def test_data_that_one_process_lacks_end_both_with_one_line(tmp_path):
  for split in ("train", "val"):
    prist_files.write(tmp_path / "data", [prist_files.record()], split=split)
  processes = start(
    ["-c", OPENS_DATA, "300", str(tmp_path / "data")],
    ["-c", OPENS_DATA, "300", str(tmp_path / "nowhere")],
  )
  statuses, _, errors = finish(processes)
  assert statuses == [1, 1]
  assert errors[0] == ["error: another process cannot go on: it says why"]
  assert len(errors[1]) == 1 and "nowhere: no such data folder" in errors[1][0]


@pytest.mark.parametrize("alone, words", [(0, "have not all come"), (1, "not answer")])
def test_a_process_that_stays_alone_ends_with_one_line(tmp_path, alone, words):
  commands = [None, None]
  commands[alone] = ["-c", OPENS_DATA, "1", str(tmp_path)]
  statuses, _, errors = finish(start(*commands))
  assert statuses == [1]
  assert len(errors[0]) == 1 and words in errors[0][0]


def test_the_environment_names_the_other_processes():
  environ = dict(zip(distributed.VARIABLES, ("host:1234", "4", "3"), strict=True))
  found = distributed.address(DistributedConfig(), environ)
  assert found == {
    "coordinator_address": "host:1234", "num_processes": 4, "process_id": 3
  }  # fmt: skip
  off = DistributedConfig(coordinator="off")
  assert distributed.address(off, environ) is None


def test_the_config_wins_over_the_environment():
  config = DistributedConfig(coordinator="a:1", processes=2, process=0)
  found = distributed.address(config, {"JAX_COORDINATOR_ADDRESS": "b:2"})
  assert found["coordinator_address"] == "a:1" and found["num_processes"] == 2


@pytest.mark.parametrize("launcher", distributed.LAUNCHERS)
def test_a_launcher_of_several_tasks_is_left_to_jax(launcher):
  config = DistributedConfig()
  assert distributed.address(config, {launcher: "8", "JAX_PLATFORMS": "cpu"}) == {}
  assert distributed.address(config, {launcher: "1", "JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
  "environ, word",
  [
    ({"JAX_COORDINATOR_ADDRESS": "host"}, "HOST:PORT"),
    ({"JAX_COORDINATOR_ADDRESS": "host:1"}, "JAX_NUM_PROCESSES=''"),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "host:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "2",
      },
      "JAX_PROCESS_ID='2'",
    ),
  ],
)
def test_an_incomplete_environment_is_one_line(environ, word):
  with pytest.raises(UserError, match=word):
    distributed.address(DistributedConfig(), environ)


class Device:
  def __init__(self, process):
    self.process_index = process


@pytest.mark.parametrize(
  "sizes, share",
  [
    ({"data": 8}, (0, 2)),  # every process has rows of its own
    ({"data": 1, "tensor": 8}, (0, 1)),  # both have all rows
    ({"data": 2, "tensor": 4}, (0, 2)),
  ],
)
def test_processes_that_hold_the_same_rows_feed_the_same_share(
  sizes, share, monkeypatch
):
  """As with two processes of four devices: device k is of process k // 4."""
  made = mesh_lib.make_mesh(MeshConfig(**sizes))
  rows = jax.sharding.NamedSharding.devices_indices_map

  def of_two_processes(self, shape):
    return {Device(d.id // 4): i for d, i in rows(self, shape).items()}

  monkeypatch.setattr(
    jax.sharding.NamedSharding, "devices_indices_map", of_two_processes
  )
  assert mesh_lib.data_host(made) == share
