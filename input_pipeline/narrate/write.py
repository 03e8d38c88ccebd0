"""The door: a labelled photograph -> conversations that lead to masks of it."""

import collections
import hashlib
import random
from collections.abc import Mapping

import numpy as np

from input_pipeline.annotations.photo import LabelledPhoto
from input_pipeline.narrate import edits as edits_lib
from input_pipeline.narrate import talks
from input_pipeline.narrate.things import make_scene
from input_pipeline.narrate.wordings import Wordings

MIN_AREA = 0.001  # share of the photograph below which nobody asks for a thing
TRIES = 8  # drawn talks for each one that is wanted
# Kind of talk (a function of `talks`) and how often it is drawn, where it is possible.
MIX = {
  "guess": 34, "narrow": 25, "without": 5, "seek": 8, "none": 6, "missing": 12,
  "piece": 10, "part": 10,
}  # fmt: skip

# The same of talks of one round, from which a model learns what words mean.
SHORT = {"name": 75, "name_absent": 15, "unclear": 10}


def write(
  photo: LabelledPhoto,
  image_HWC: np.ndarray,
  key: str,
  *,
  wordings: Wordings,
  per_photo: int,
  min_area: float = MIN_AREA,
  mix: Mapping[str, int] = MIX,
  edits: float = 0.0,
) -> list[tuple[tuple[tuple[str, str], ...], tuple[tuple[str, dict], ...]]]:
  """Conversations about a photograph, each (turns, targets) as in `SegConversation`.

  Args:
    image_HWC: the decoded photograph, uint8 RGB.
    key: equal keys give equal conversations, on any machine.
    per_photo: most conversations; fewer where the labels do not give so many.
    min_area: share of the photograph from which on a thing can be a target. Smaller
      ones, and those whose label cannot stand in a text, still count where a group has
      to be told apart.
    mix: how often each kind of talk is drawn.
    edits: share of the conversations that go on from their mask where they can.

  Targets take turns, so that each thing is asked for before one is asked for again.
  Raises ValueError where a mask has another size than the photograph.
  """
  scene = make_scene(photo, image_HWC, wordings, min_area)
  seed = hashlib.sha256(f"{photo.image_id}\0{key}".encode()).digest()
  rng = random.Random(int.from_bytes(seed[:16], "big"))
  used, written = collections.Counter(), {}
  # A part is asked for through its whole; it would wait for a turn of its own for ever.
  wholes = [t for t in scene.targets if t.region.part_of is None]
  for _ in range(TRIES * per_photo if wholes else 0):
    if len(written) == per_photo:
      break
    kind = rng.choices(list(mix), weights=mix.values())[0]
    thing = min(wholes, key=lambda t: (used[t.number], rng.random()))
    talk = getattr(talks, kind)(talks.Talk(scene, wordings, rng), thing)
    if talk is None:
      continue
    if edits and talk.maybe(edits):
      edits_lib.go_on(talk)
    if (done := talk.done()) in written.values():
      continue
    written[len(written)] = done
    used[thing.number] += kind not in ("none", "name_absent", "unclear")
  return list(written.values())
