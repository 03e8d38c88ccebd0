"""The launchers: bash alone, no training."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[1] / "launch"


def processes(*arguments, **options):
  command = ["bash", str(LAUNCH / "processes.sh"), *arguments]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  return subprocess.Popen(command, **pipes, **options)


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda p: p.name)
def test_every_script_parses(script):
  subprocess.run(["bash", "-n", str(script)], check=True)


def test_each_process_knows_its_place():
  show = "echo $JAX_COORDINATOR_ADDRESS $JAX_PROCESS_ID of $JAX_NUM_PROCESSES"
  out, _ = processes("3", "bash", "-c", show).communicate()
  address = out.split()[0]
  assert sorted(out.splitlines()) == [f"{address} {i} of 3" for i in range(3)]


def test_the_status_is_that_of_the_process_that_fails():
  run = processes("3", "bash", "-c", "exit $((JAX_PROCESS_ID == 1 ? 4 : 0))")
  run.communicate()
  assert run.returncode == 4


def test_the_first_that_fails_ends_the_others():
  waits = "if [ $JAX_PROCESS_ID = 1 ]; then exit 7; fi; exec sleep 60"
  start = time.monotonic()
  run = processes("2", "bash", "-c", waits)
  run.communicate()
  assert run.returncode == 7
  assert time.monotonic() - start < 30


def test_sigterm_reaches_all_and_they_may_finish():
  # os.write: two processes share the pipe, and a line must not be torn.
  waits = "import os, signal, sys, time; say = lambda x: os.write(1, x);"
  waits += "signal.signal(15, lambda *_: (say(b'saved\\n'), sys.exit(0)));"
  waits += "say(b'ready\\n'); time.sleep(60)"
  run = processes("2", sys.executable, "-c", waits)
  assert [run.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
  run.send_signal(signal.SIGTERM)
  start = time.monotonic()
  out, _ = run.communicate()
  assert (out, run.returncode) == ("saved\n" * 2, 0)
  assert time.monotonic() - start < 30


def test_without_a_count_it_says_what_it_wants():
  run = processes("miras", "train")
  _, problem = run.communicate()
  assert run.returncode == 1
  assert problem.startswith("error: want bash launch/processes.sh COUNT COMMAND")


def test_a_tpu_pod_gets_the_options_as_they_were_given(tmp_path):
  gcloud = tmp_path / "gcloud"
  gcloud.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
  gcloud.chmod(0o755)
  run = subprocess.run(
    ["bash", str(LAUNCH / "tpu_pod.sh"), "pod", "zone-a", "--config=c.py:size=7b",
     "--workdir=/mnt/my runs"],
    env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True,
    check=True,
  )  # fmt: skip
  assert "--worker=all" in run.stdout
  assert r"train --config=c.py:size=7b --workdir=/mnt/my\ runs" in run.stdout
