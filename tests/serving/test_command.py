"""`miras serve` from the command line: starts, says where, refuses in one line."""

import pathlib
import re
import socket

import pytest

from miras_jax.errors import UserError
from miras_jax.inference import devices, generator
from miras_jax.options import Parser
from tests import talker
from tests.serving import helpers

uvicorn = pytest.importorskip("uvicorn", reason="needs miras_jax[serve]")
from miras_jax.serving import command  # noqa: E402

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture
def served(monkeypatch):
  """(config, address) of each server that the command would have run, with a scripted
  model."""
  found = []

  def run(server, sockets):
    address = sockets[0].getsockname()
    socket.create_connection(address, timeout=5).close()
    found.append((server.config, address))

  loaded = talker.loaded(helpers.script)
  monkeypatch.setattr(devices, "load", lambda args: loaded)
  monkeypatch.setattr(uvicorn.Server, "run", run)
  return found


def test_it_listens_to_this_machine_when_it_says_so(served, capsys):
  command.main(["--checkpoint=runs/first", "--port=0", "--slots=3"])
  config, (host, port) = served[0]
  assert host == "127.0.0.1"
  assert capsys.readouterr().out == f"ready: http://127.0.0.1:{port}\n"
  assert config.app.state.service.settings.slots == 3
  assert config.app.state.service.name == "first"


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(served):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"--port={port}: Address already in use"):
      command.main(["--checkpoint=none", f"--port={port}"])


@pytest.mark.parametrize("option", [
  "--slots=0", "--queue=-1", "--timeout=0", "--max_new_tokens=0", "--port=70000",
])  # fmt: skip
def test_numbers_that_make_no_sense_are_one_line(served, option):
  with pytest.raises(UserError, match=option):
    command.main(["--checkpoint=runs/first", option])


def test_a_model_that_does_not_fit_names_what_to_change(served, monkeypatch):
  def full(engine):
    raise generator.DoesNotFit(generator.DOES_NOT_FIT)

  monkeypatch.setattr("miras_jax.serving.engine.Engine.warm", full)
  with pytest.raises(UserError, match="--slots=8: .* does not fit"):
    command.main(["--checkpoint=runs/first", "--port=0"])


def test_the_page_about_it_names_options_that_there_are(monkeypatch):
  options = []
  monkeypatch.setattr(Parser, "parse_args", lambda self, args: options.extend(
    o for action in self._actions for o in action.option_strings))  # fmt: skip
  command._parse([])
  named = set(re.findall(r"--[a-z_]+", PAGE.read_text())) - {"--data"}
  assert len(named) > 8 and named <= set(options)
