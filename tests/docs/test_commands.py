"""Every command that a page shows is one that the program takes."""

import re

import pytest

from miras_jax import cli
from miras_jax.errors import UserError
from tests.docs import commands

SHOWN = list(dict.fromkeys(commands.in_blocks()))
INLINE = list(dict.fromkeys(commands.inline()))
# Of the repository, as pages name them.
OURS = r"(?:configs|docs|input_pipeline|launch|miras_jax|tests)/[\w/.-]*\w"


def test_the_pages_show_every_command():
  shown = {command.argv[0] for command in SHOWN if command.page.startswith("docs/")}
  assert cli.COMMANDS.keys() - shown == set()
  assert len(SHOWN) > 60 and len(INLINE) > 60


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_a_command_of_a_block_parses_and_its_config_loads(command, monkeypatch):
  monkeypatch.chdir(commands.ROOT)
  if "..." in command.argv:  # which a reader fills in
    argv = tuple(word for word in command.argv if word != "...")
    assert commands.unknown_options(argv, monkeypatch) == []
  else:
    commands.parse(command.argv, monkeypatch)


@pytest.mark.parametrize("command", INLINE, ids=str)
def test_a_command_in_a_sentence_has_these_options(command, monkeypatch):
  monkeypatch.chdir(commands.ROOT)
  name, *rest = command.argv
  if name == "COMMAND":  # of all of them
    return
  assert name in cli.COMMANDS or name.startswith("--")
  if any(word in ("NAME", "KIND") for word in rest[:2]):
    return  # stands for each of several
  assert commands.unknown_options(command.argv, monkeypatch) == []


def test_a_misspelt_option_of_a_page_would_be_found(monkeypatch):
  with pytest.raises(UserError, match="--werkdir"):
    commands.parse(("train", "--werkdir=x"), monkeypatch)
  with pytest.raises(UserError, match="optim.lrr"):
    argv = ("train", "--config=configs/own.py", "--workdir=x", "--config.optim.lrr=1")
    commands.parse(argv, monkeypatch)
  assert commands.unknown_options(("eval", "--chekpoint=x"), monkeypatch) == [
    "--chekpoint"
  ]


@pytest.mark.parametrize("path", commands.pages(), ids=commands.name_of)
def test_every_file_of_ours_that_a_page_names_exists(path):
  named = set(re.findall(rf"(?<![\w/.-]){OURS}", path.read_text()))
  assert not [name for name in named if not (commands.ROOT / name).exists()]
