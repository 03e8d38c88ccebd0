"""Photographs without masks: what annotators get, and how it comes back."""

import json

import pytest

from miras_jax.data import command as data
from tests.data.construct import pictures, server
from tests.data.construct.test_command import construct
from tests.llm.endpoint import Do, serve


@pytest.fixture
def made(tmp_path):
  """The folder of a run over three photographs without masks."""
  photos, out = pictures.make(tmp_path / "p", 3), tmp_path / "out"

  def script(body, _):
    return Do.say(json.dumps(server.elements_without_masks(body)))

  with serve(script) as (url, _):
    construct(photos, out, url, "--splits=train:1", masks=False)
  return out


def draw(path):
  """What an annotator adds: a rectangle under the label that is offered."""
  document = json.loads(path.read_text())
  (placeholder,) = document["shapes"]
  shape = {"points": [[10, 10], [50, 40]], "shape_type": "rectangle"}
  document["shapes"].append(placeholder | shape)
  path.write_text(json.dumps(document))


def test_check_names_every_mask_that_is_still_to_be_drawn(made, capsys):
  assert data.main(["check", str(made)]) == 1
  said = capsys.readouterr().out
  assert said.count("no ground truth: every shape of focus 'brass bell'") == 3


def test_what_was_drawn_under_the_label_of_the_focus_is_its_mask(made, capsys):
  for path in (made / "masks").glob("*.json"):
    draw(path)
  assert data.main(["check", str(made)]) == 0
  assert "3 records, 3 images, 0 problems" in capsys.readouterr().out


def test_a_second_run_leaves_what_was_drawn(made, tmp_path):
  path = made / "masks" / "p000.json"
  draw(path)
  drawn = path.read_text()
  more = "--offline", "--splits=train:1"
  construct(tmp_path / "p", made, "", *more, masks=False)
  assert path.read_text() == drawn


def test_the_page_shows_picture_dialogue_and_focus(made):
  page = (made / "worklist.html").read_text()
  assert page.count('src="images/p00') == 3
  assert "<h2>brass bell</h2>" in page and "call the guests" in page
  assert (made / "labels.txt").read_text() == "brass bell\n"
