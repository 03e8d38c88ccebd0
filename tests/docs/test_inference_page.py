"""The page about the Python API runs as it stands, and its notebook is the same."""

import json
import pathlib
import re

import numpy as np
from PIL import Image

from miras_jax.inference import predictor
from tests import talker

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PIECES = re.compile(r"```python\n(.*?)```\n", re.DOTALL)


def script(prompt, image):
  if "egment" in prompt.split("USER:")[-1]:
    return "Sure, it is . cup[SEG]", ["left"]
  return "It is there.", []


def test_the_page_runs(tmp_path, monkeypatch, capsys):
  page = (DOCS / "inference.md").read_text()
  folder = tmp_path / "data/quickstart/images"
  folder.mkdir(parents=True)
  Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "synth_000001.jpg")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    predictor, "open_checkpoint", lambda _, **__: talker.loaded(script)
  )
  exec("\n".join(PIECES.findall(page)), {})
  printed = capsys.readouterr().out
  assert "[SEG] (8, 12) 0.5" in printed
  assert "outside of the image of 12x8 pixels" in printed


def test_the_notebook_is_the_page():
  page = (DOCS / "inference.md").read_text()
  cells = json.loads((DOCS / "inference.ipynb").read_text())["cells"]
  text, *rest = PIECES.split(page)
  want = [("markdown", text.strip())]
  for code, text in zip(rest[::2], rest[1::2], strict=True):
    want += [("code", code.strip()), ("markdown", text.strip())]
  have = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
  assert have == [(kind, text) for kind, text in want if text]
