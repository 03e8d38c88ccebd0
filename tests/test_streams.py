"""Standard streams that are closed, full, unread or of an ASCII locale."""

import os
import subprocess
import sys

import pytest

from tests import prist_files

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ECHO = """
import sys
from miras_jax import options
def main(argv):
  print(sys.stdin.read().strip(), sys.getfilesystemencoding(), *argv)
options.run(main)
"""


def miras(*argv, shell="", env=(), **options):
  """`miras argv` in a shell that redirects its streams; the finished process."""
  command = f'"$0" -m miras_jax.cli "$@" {shell}'
  return subprocess.run(
    ["bash", "-o", "pipefail", "-c", command, sys.executable, *map(str, argv)],
    env=os.environ | dict(env),
    stderr=subprocess.PIPE,
    **options,
  )


@pytest.fixture
def data(tmp_path):
  name = "Müßiggang 猫.png"
  records = [prist_files.record(img_id=name, focus="no such thing")] * 200
  root = prist_files.write(tmp_path / "data", records)
  (root / "images" / name).write_bytes((root / "images" / "a.png").read_bytes())
  return root


def test_output_to_a_full_device_is_one_line(data):
  done = miras("data", "check", data, shell="> /dev/full")
  assert done.returncode == 1
  assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
  assert done.stderr.endswith(b"error: output: No space left on device\n")


def test_short_output_to_a_full_device_is_one_line():
  done = miras("--version", shell="> /dev/full")
  assert done.returncode == 1
  assert done.stderr == b"error: output: No space left on device\n"


def test_error_output_to_a_full_device_ends_nothing(data):
  done = miras("data", "check", data, shell="2> /dev/full", stdout=subprocess.PIPE)
  assert done.returncode == 1 and b"200 problems" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(data, closed):
  done = miras("data", "check", data, shell=closed)
  assert done.returncode == 1 and b"Traceback" not in done.stderr


def test_mistake_with_output_closed_is_still_said():
  done = miras("nonsense", shell=">&-")
  assert done.returncode == 1 and done.stderr.startswith(b"error: no command")


def test_reader_that_stops_is_no_error(data):
  done = miras("data", "check", data, shell="| true")
  assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_ascii_locale_reads_and_prints_any_name(data):
  done = miras("data", "check", data, env=ASCII, stdout=subprocess.PIPE)
  line = done.stdout.decode().splitlines()[0]
  assert line.startswith("val.json:0: ") and "Müßiggang 猫.json" in line


def test_ascii_locale_becomes_utf8_for_the_whole_process():
  done = subprocess.run(
    [sys.executable, "-c", ECHO, "é"],
    env=os.environ | ASCII,
    input="ü".encode(),
    capture_output=True,
  )
  assert done.stdout.decode() == "ü utf-8 é\n"


def test_output_locale_that_lacks_a_character_escapes_it():
  done = subprocess.run(
    [sys.executable, "-c", ECHO],
    env=os.environ | {"PYTHONIOENCODING": "latin-1:strict"},
    input="猫".encode("utf-16-be"),
    capture_output=True,
  )
  assert done.returncode == 0, done.stderr


def test_what_the_machine_refuses_is_one_line():
  code = "options.run(lambda argv: open(300 * 'x', 'w'))"
  code = f"from miras_jax import options; {code}"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr == f"error: {300 * 'x'}: File name too long\n"
