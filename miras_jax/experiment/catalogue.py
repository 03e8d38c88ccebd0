"""The experiments as data: what is asked, and the arms that answer it.

An arm differs from configs/prist_quickstart.py in its `fields`, in the data of its
stages or in what it hears when it is scored. Arms that train alike share one run, also
between experiments.
"""

import dataclasses
from typing import NamedTuple

from miras_jax.config.settings import LOSS_PRESETS, PUBLISHED_FORMS

TALKS, NAMED = "talks", "named"  # conversations; single requests by name
OWN, GOLD, NONE = "own", "gold", "none"  # whose answers a scored model has heard


class Arm(NamedTuple):
  """fields: {"a.b": VALUE} of `--config.a.b=VALUE`. stages: (data, share of the steps),
  each from the weights of the one before. history: OWN, GOLD or NONE. state: whose
  masks are the earlier ones, the same. like: the arm whose runs it shares."""

  name: str
  about: str
  fields: dict = {}
  stages: tuple = ((TALKS, 1.0),)
  history: str = OWN
  state: str = OWN
  like: str = ""


class Experiment(NamedTuple):
  """The first arm is what the others are compared with.

  steps: of each run, so that `seeds` runs of every arm take half an hour on two quiet
  cores, of `state` longer. grouped: also by number of turns, distractors and target
  size. edits: share of the conversations that go on from their mask.
  """

  question: str
  arms: tuple[Arm, ...]
  steps: int
  seeds: int = 3
  grouped: bool = False
  edits: float = 0.0


def _loss(preset, **forms):
  """Fields of a preset's weights, with dice over plain sums unless `forms` say else."""
  values = dataclasses.asdict(LOSS_PRESETS[preset]) | {"dice_scale": 1.0} | forms
  return {f"loss.{name}": value for name, value in values.items()}


# A row of conversations that go on from their mask has more of these.
_EDITS = {"data.max_masks": 12}
_DENSE = _EDITS | {"model.state": "dense"}
_TOKENS = _EDITS | {"model.state": "tokens"}
_BOTH = _EDITS | {"model.state": "both"}
_ALIGN = "model.overrides.seg_prompt.alignment"

EXPERIMENTS = {
  "encoders": Experiment(
    "Does the mask need both image encoders of the language model?",
    (
      Arm("both", "CLIP's tokens mine ConvNeXt's cells, as published"),
      Arm(
        "no convnext",
        "CLIP's tokens alone, as in LISA",
        {"model.overrides.convnext": None},
      ),
      Arm(
        "no clip",
        "patches mine ConvNeXt's cells as they are embedded: no block of CLIP runs",
        {"model.overrides.clip.select_layer": 0},
      ),
      Arm(
        "shared",
        "CLIP's tokens mine the features that SAM has anyway",
        {"model.encoder": "shared"},
      ),
      Arm(
        "sam only",
        "SAM's features are the image tokens: both are off",
        {"model.encoder": "sam_only"},
      ),
    ),
    steps=200,
  ),
  "alignment": Experiment(
    "Does the semantic region alignment of [OBJ] names help the mask?",
    (
      Arm("off", "the state of [SEG] alone is the prompt", {_ALIGN: "none"}),
      Arm("residual", "added to the state of [SEG]", {_ALIGN: "residual"}),
      Arm("published", "the attention's output replaces the state of [SEG]"),
    ),
    steps=360,
  ),
  "losses": Experiment(
    "Which of the published loss presets, and in which form?",
    (
      Arm("paper", "tokens 1, BCE 2, dice 0.5", _loss("paper")),
      Arm(
        "stage 2",
        "the release's second stage: tokens 1, dice 0.5, focal 1, boundary 0.5",
        _loss("stage2_code"),
      ),
      Arm(
        "paper, published",
        "the same weights, dice divided as in the release",
        _loss("paper", **PUBLISHED_FORMS),
      ),
      Arm(
        "stage 2, published",
        "the same weights, every term in the release's form",
        _loss("stage2_code", **PUBLISHED_FORMS),
      ),
    ),
    steps=270,
  ),
  "stages": Experiment(
    "Do both training stages help, at one number of steps?",
    (
      Arm("1 + 2", "half the steps each", stages=((NAMED, 0.5), (TALKS, 0.5))),
      Arm("1", "single requests that name the target", stages=((NAMED, 1.0),)),
      Arm("2", "conversations that lead to the target"),
    ),
    steps=360,
  ),
  "history": Experiment(
    "How much does the mask depend on the turns before, and on whose words they hold?",
    (
      Arm("own", "the model's own answers are the history"),
      Arm("gold", "the data's answers are the history", history=GOLD),
      Arm("none", "the request for the mask alone", history=NONE),
    ),
    steps=1100,
  ),
  "state": Experiment(
    "Do later turns need to see the masks of earlier ones?",
    (
      Arm("none", "no mask is seen again, only the words", _EDITS),
      Arm("dense", "the model's own masks move SAM's dense prompt", _DENSE),
      Arm(
        "dense, gold",
        "the same model sees true masks",
        _DENSE,
        state=GOLD,
        like="dense",
      ),
      Arm("dense, blind", "the same model sees none", _DENSE, state=NONE, like="dense"),
      Arm("tokens", "the language model reads the model's own masks", _TOKENS),
      Arm("tokens, gold", "it reads true masks", _TOKENS, state=GOLD, like="tokens"),
      Arm("both", "the language model and SAM's decoder see its own masks", _BOTH),
      Arm("both, gold", "both see true masks", _BOTH, state=GOLD, like="both"),
    ),
    steps=600,
    edits=0.7,
  ),
  "complexity": Experiment(
    "What makes a conversation hard: turns, distractors or small targets?",
    (Arm("own", "the model's own answers are the history"),),
    steps=1100,
    grouped=True,
  ),
}
