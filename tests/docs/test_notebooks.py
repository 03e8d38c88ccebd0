"""Pages that are notebooks too: they run as they stand, and both say the same."""

import json

import numpy as np
import pytest
from PIL import Image

from miras_jax.inference import predictor
from tests import talker
from tests.docs import notebooks


def script(prompt, image):
  if "egment" in prompt.split("USER:")[-1]:
    return "Sure, it is . cup[SEG]", ["left"]
  return "It is there.", []


def run(name):
  exec("\n".join(notebooks.code(name)), {})


def test_the_page_about_talking_runs(tmp_path, monkeypatch, capsys):
  folder = tmp_path / "data/quickstart/images"
  folder.mkdir(parents=True)
  Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "synth_000001.jpg")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    predictor, "open_checkpoint", lambda _, **__: talker.loaded(script)
  )
  run("inference")
  printed = capsys.readouterr().out
  assert "[SEG] (8, 12) 0.5" in printed
  assert "outside of the image of 12x8 pixels" in printed


def test_the_page_about_evaluating_runs_with_the_real_model(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  run("evaluation")
  printed = capsys.readouterr().out
  value = {}
  for line in printed.splitlines():
    if " - " in line and "->" not in line:
      name, _, numbers = line.rpartition("   ")
      value[" ".join(name.split()[:-1])] = float(name.split()[-1])
  # What the page says about the controls.
  for control in ("swapped_conversation", "last_turn_only", "swapped_image"):
    assert value[f"ciou, {control}"] < 0.7 * value["ciou"]
  assert value["ciou, history_shuffled"] > 0.5 * value["ciou"]
  with Image.open(tmp_path / "masks.png") as picture:
    assert picture.width > 500


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_the_notebook_is_the_page(name):
  kept = json.loads((notebooks.DOCS / f"{name}.ipynb").read_text())["cells"]
  have = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in kept]
  assert have == notebooks.cells(name)


def test_every_notebook_is_one_of_these():
  assert {p.stem for p in notebooks.DOCS.glob("*.ipynb")} == set(notebooks.NAMES)
