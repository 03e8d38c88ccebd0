"""The command line teaches by example; a mistake is one line, never a traceback."""

import subprocess
import sys
import types

import pytest

from miras_jax import cli, options
from miras_jax.errors import UserError
from miras_jax.options import Parser


def status_of(command, argv=()):
  with pytest.raises(SystemExit) as caught:
    options.run(command, list(argv))
  return caught.value.code


def fake_module(monkeypatch, main):
  module = types.ModuleType("miras_jax.fake.command")
  module.main = main
  monkeypatch.setitem(sys.modules, "miras_jax.fake.command", module)
  monkeypatch.setitem(cli.COMMANDS, "fake", ("fake", "help", "miras fake"))


def test_help_shows_every_command_with_an_example(capsys):
  assert status_of(cli.main, ["--help"]) == 0
  out = capsys.readouterr().out
  for name in cli.COMMANDS:
    assert f"  miras {name}" in out


def test_help_imports_no_jax():
  code = (
    "import sys; from miras_jax import cli\n"
    "cli.main(['--help']); sys.exit('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.returncode == 0, done.stderr


def test_a_misspelt_command_names_the_nearest():
  with pytest.raises(UserError, match="'trian'; did you mean 'train'"):
    cli.main(["trian"])


def test_the_rest_of_the_line_reaches_the_command(monkeypatch):
  seen = []
  fake_module(monkeypatch, seen.append)
  assert status_of(cli.main, ["fake", "--a=1", "b"]) == 0
  assert seen == [["--a=1", "b"]]


def test_a_user_error_is_one_line_on_stderr_and_status_1(monkeypatch, capsys):
  def main(argv):
    raise UserError("no folder\n  'x'")

  fake_module(monkeypatch, main)
  assert status_of(cli.main, ["fake"]) == 1
  captured = capsys.readouterr()
  assert captured.err == "error: no folder 'x'\n" and captured.out == ""


def test_details_of_an_error_keep_their_lines(monkeypatch, capsys):
  def main(argv):
    raise UserError("lay it out as below", details="  a/\n    b.jpg")

  fake_module(monkeypatch, main)
  assert status_of(cli.main, ["fake"]) == 1
  assert capsys.readouterr().err == "error: lay it out as below\n  a/\n    b.jpg\n"


def test_a_module_of_an_extra_that_is_missing_says_what_to_install(monkeypatch, capsys):
  def main(argv):
    raise ModuleNotFoundError(name="sacrebleu")

  fake_module(monkeypatch, main)
  assert status_of(cli.main, ["fake"]) == 1
  assert "pip install 'miras_jax[eval]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
  def main(argv):
    raise ZeroDivisionError

  fake_module(monkeypatch, main)
  with pytest.raises(ZeroDivisionError):
    options.run(cli.main, ["fake"])


def test_a_misspelt_option_names_the_nearest():
  parser = Parser(prog="miras x")
  parser.add_argument("--checkpoint")
  with pytest.raises(UserError, match="--checkpiont.*did you mean '--checkpoint'"):
    parser.parse_args(["--checkpiont=a"])


def test_a_missing_required_option_is_a_user_error():
  parser = Parser(prog="miras x")
  parser.add_argument("--out", required=True)
  with pytest.raises(UserError, match="--out"):
    parser.parse_args([])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_that_shows_an_example(name, capsys):
  try:
    status = cli.main([name, "--help"])
  except SystemExit as done:  # argparse ends the process after its help
    status = done.code
  assert not status
  out = capsys.readouterr().out
  assert f"miras {name} " in out and "--" in out


def test_simulated_devices_run_their_collectives_in_one_order():
  simulated = "--xla_force_host_platform_device_count=8"
  assert options.in_order(simulated) == f"{simulated} {options.IN_ORDER}"
  assert options.in_order(options.in_order(simulated)) == options.in_order(simulated)
  assert options.in_order("--xla_dump_to=x") == "--xla_dump_to=x"


@pytest.mark.parametrize("name", ["--half-width", "--half_width"])
def test_an_option_is_known_with_hyphens_and_with_underscores(name):
  parser = options.Parser()
  parser.add_argument("--half_width", type=float)
  parser.add_argument("--allow-missing", action="store_true")
  parser.add_argument("rest", nargs="*")
  args = parser.parse_args([f"{name}=2", "--allow_missing", "a-b=c_d"])
  assert (args.half_width, args.allow_missing, args.rest) == (2.0, True, ["a-b=c_d"])
  assert parser.parse_args([name, "3"]).half_width == 3.0
