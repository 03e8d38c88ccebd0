"""The model and the picture that come with the package, for a first conversation.

`launch/quickstart.sh` trained it; `miras checkpoint export --small` wrote it.
"""

import copy
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "demo"
MODEL, IMAGE = FOLDER / "model", FOLDER / "scene.jpg"
HINT = """\
It knows rendered scenes alone, and was trained for some minutes. Try, line by line:
  How many things are there?
  Do you see the big things?
  Outline all of these.
  I mean the rightmost of these.
  Segment that for me."""


def fill(args):
  """`args` with the model and the picture, where the user names no other ones."""
  args = copy.copy(args)
  args.checkpoint = args.checkpoint or str(MODEL)
  args.image = args.image or str(IMAGE)
  return args
