"""What pages say beyond commands: pieces of Python, the first talk, the figures."""

import ast
import importlib
import re
import xml.etree.ElementTree

import pytest

from miras_jax.config.run import RunConfig
from miras_jax.inference import demo
from tests.docs import commands, notebooks

PYTHON = [
  (commands.name_of(path), code)
  for path in commands.pages()
  for code in notebooks.PIECES.findall(path.read_text())
]
OURS = ("miras_jax", "input_pipeline", "configs")
FIGURES = sorted((commands.ROOT / "docs/figures").glob("*.svg"))


@pytest.mark.parametrize("page, code", PYTHON, ids=[f"{p}-{k}" for k, (p, _) in
                                                    enumerate(PYTHON)])  # fmt: skip
def test_what_a_piece_of_python_imports_of_ours_is_there(page, code):
  for node in ast.walk(ast.parse(code)):
    if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
      module = importlib.import_module(node.module)
      for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        assert hasattr(module, alias.name) or importlib.import_module(inner)


def test_the_config_that_a_page_writes_is_a_run():
  pieces = [code for _, code in PYTHON if "def get_config" in code]
  assert pieces
  for code in pieces:
    names = {}
    exec(code, names)
    run = RunConfig.from_config_dict(names["get_config"]())
    assert run.steps == 4000 and run.model.build()


def test_the_first_conversation_is_the_one_that_the_program_offers():
  page = (commands.ROOT / "docs/start.md").read_text()
  shown = re.search(r"^```\n(How many.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
  offered = [line.strip() for line in demo.HINT.splitlines()[1:]]
  assert shown.splitlines() == offered


def test_the_readme_is_a_screen_or_two():
  lines = (commands.ROOT / "README.md").read_text().splitlines()
  assert len(lines) <= 130


@pytest.mark.parametrize("path", FIGURES, ids=commands.name_of)
def test_a_figure_is_small_says_what_it_shows_and_is_on_a_page(path):
  root = xml.etree.ElementTree.parse(path).getroot()
  assert root.get("role") == "img" and root.get("aria-label")
  assert path.stat().st_size < 8_000
  used = [p for p in commands.pages() if f"figures/{path.name}" in p.read_text()]
  assert used
