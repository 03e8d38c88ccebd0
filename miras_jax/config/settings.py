"""Every setting of a run, by group: data, mesh, processes, optimizer, losses.

These dataclasses are the only list of fields. A new one is one line here, or in run.py
when it belongs to no group: config files, `--config.GROUP.FIELD=VALUE`, `--help`, the
checks and the comparison at resume follow.
"""

import dataclasses
import re

from input_pipeline.examples import VIEWS
from input_pipeline.templates import TEMPLATES
from miras_jax.config.fields import check, setting
from miras_jax.errors import UserError
from miras_jax.parallel import gathered
from miras_jax.parallel.mesh import AXES

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant")
EXTENSIONS = ("stretch", "hold", "rewarm")
FOCAL_FORMS = ("mask", "published")
BOUNDARY_FORMS = ("probabilities", "published")


def _chance(text):
  return setting(0.0, f"chance that a picture is {text}", least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataChoice:
  """Where the conversations are and how they become a Batch."""

  dir: str = setting(
    "", "folder of the data set; has to be given", may_change=True, is_path=True
  )
  images_dir: str = setting(
    "",
    "folder of the photographs, when they lie elsewhere",
    may_change=True,
    is_path=True,
  )
  masks_dir: str = setting(
    "",
    "folder of the annotations, when they lie elsewhere",
    may_change=True,
    is_path=True,
  )
  split_train: str = setting("train", "name of the split that is trained on")
  split_eval: str = setting("val", 'name of the split that is held out; "": none')
  limit: int = setting(0, "number of first conversations to train on; 0: all", least=0)
  tokenizer: str = setting(
    "bpe",
    '"bpe" (learnt from the data), a tokenizer.model or a tokenizer folder',
    is_path=True,
  )
  vocab_size: int = setting(1024, 'most ids that "bpe" learns', least=1)
  template: str = setting(
    "llava_v1",
    "form of the conversation: input_pipeline/templates.py",
    choices=TEMPLATES,
  )
  system: str = setting("", 'system prompt; "" takes the template\'s own')
  name_targets: bool = setting(True, 'whether answers read "[OBJ]name[SEG]"')
  view: str = setting(
    "letterbox",
    "how an image becomes a square; center_crop is published",
    choices=VIEWS,
  )
  max_len: int = setting(
    0, "tokens of a row, image slots included; 0: as many as the data need", least=0
  )
  max_masks: int = setting(2, "most [SEG] of a row", least=1)
  pack: int = setting(1, "most conversations about one image that share a row", least=1)
  talk_len: int = setting(
    0, "tokens of a conversation in eval and chat; 0: as the longest needs", least=0
  )
  threads: int = setting(
    0,
    "number of threads that prepare examples; 0: the training thread does",
    least=0,
    may_change=True,
  )
  in_memory: bool = setting(
    False,
    "whether prepared examples stay in memory: quick for small data",
    may_change=True,
  )
  cache: str = setting(
    "",
    "folder that `miras data cache` wrote: frozen encoders do not run",
    may_change=True,
    is_path=True,
  )

  def __post_init__(self):
    check(self, "data.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentChoice:
  """How likely a picture is changed each time it is drawn; as published: never.

  A change is left out where the conversation's words would not stay true
  (input_pipeline/augment.py).
  """

  flip: float = _chance("mirrored: not where a text tells a side or what is written")
  crop: float = _chance("cropped: every target stays whole; not where a place is told")
  scale: float = _chance("made smaller on the canvas; not where a place is told")
  colour: float = _chance("recoloured: no other hue where a colour is named")
  crop_share: float = setting(
    0.6, "least height and width of a crop, as shares", above=0, below=1
  )
  words: str = setting(
    "",
    "file of the words of sides, places and colours; none: input_pipeline/words.json",
    may_change=True,
    is_path=True,
  )

  def __post_init__(self):
    check(self, "augment.")
    for name in ("flip", "crop", "scale", "colour"):
      if getattr(self, name) > 1:
        raise UserError(f"augment.{name}={getattr(self, name)} must be at most 1")

  def is_on(self) -> bool:
    """Whether any change is made."""
    return any((self.flip, self.crop, self.scale, self.colour))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Size of each axis of the device mesh; at most one is -1."""

  dcn_data: int = setting(1, "slices of devices, each with rows of its own")
  data: int = setting(
    -1, "devices of a slice with rows of their own; -1: all that are left"
  )
  fsdp: int = setting(1, "devices that share every parameter, and the batch")
  tensor: int = setting(1, "devices that share every matrix product")
  sequence: int = setting(1, "devices that share every row; divides its length")
  keep_gathered: str = setting(
    "auto",
    "whether what fsdp cuts stays whole through the micro-batches of a step; auto:"
    " where memory allows",
    choices=gathered.CHOICES,
  )
  plan: str = setting(
    "",
    "who chooses the sizes above, llama.remat, optim.accumulation and data.pack: none,"
    " the config; auto, the memory model; or a file of `miras scale --search --write`",
    is_path=True,
  )
  planned: str = setting(
    "", "noted by the run itself: the devices that the plan was made for"
  )

  def __post_init__(self):
    check(self, "mesh.")
    sizes = self.sizes
    bad = [f"{n}={s}" for n, s in sizes.items() if s != -1 and s < 1]
    if bad:
      raise UserError(f"mesh sizes must be -1 or at least 1, not {', '.join(bad)}")
    if sum(s == -1 for s in sizes.values()) > 1:
      text = " ".join(f"{name}={size}" for name, size in sizes.items())
      raise UserError(f"only one mesh axis may be -1: {text}")

  @property
  def sizes(self) -> dict[str, int]:
    return {name: getattr(self, name) for name in AXES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
  """Where the other processes are; all empty: the environment tells
  (parallel/distributed.py)."""

  coordinator: str = setting(
    "", 'HOST:PORT of process 0, "auto" for what jax detects, "off" for none'
  )
  processes: int = setting(0, "number of processes; 0: the environment tells", least=0)
  process: int = setting(
    -1, "number of this process, from 0; -1: the environment tells", least=-1
  )
  heartbeat_s: int = setting(
    20, "seconds of silence after which a process counts as dead", least=1
  )
  join_s: int = setting(300, "seconds to wait for all processes at the start", least=1)

  def __post_init__(self):
    check(self, "distributed.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """AdamW as published: (0.9, 0.95), no decay, lr 3e-4, 100 warm-up steps, clip 1.0."""

  name: str = setting(
    "adamw",
    '"adamw", or "muon": matrices by Muon at muon_lr, the rest by AdamW at lr',
    choices=OPTIMIZERS,
  )
  lr: float = setting(3e-4, "highest rate of AdamW", least=0)
  muon_lr: float = setting(5e-3, "highest rate of Muon", least=0)
  schedule: str = setting(
    "linear", "how the rate falls to 0 after the warm-up", choices=SCHEDULES
  )
  warmup_steps: int = setting(100, "number of steps until the highest rate", least=0)
  extend: str = setting(
    "stretch",
    "how a run goes on that gets more steps: stretch its schedule, hold the last rate"
    " (a tenth of the highest at least), or rewarm and fall to 0 again",
    choices=EXTENSIONS,
    may_change=True,
  )
  extended: str = setting(
    "",
    "noted by the run itself: the steps where its schedules ended, and how each went"
    ' on, e.g. "1000:hold,1500:rewarm"',
    may_change=True,
  )
  b1: float = setting(0.9, "AdamW's decay of the first moment", least=0, below=1)
  b2: float = setting(0.95, "AdamW's decay of the second moment", least=0, below=1)
  weight_decay: float = setting(0.0, "decay of matrices", least=0)
  clip_norm: float = setting(1.0, "largest norm of a gradient; 0: no limit", least=0)
  ema: float = setting(
    0.0, "decay of the moving average of what trains; 0: none is kept", least=0, below=1
  )
  accumulation: int = setting(
    1, "number of micro-batches that a batch is cut into", least=1, may_change=True
  )

  def __post_init__(self):
    check(self, "optim.")
    ends = [end for end, _ in self.extensions]
    if ends != sorted(set(ends)):
      raise UserError(f"optim.extended={self.extended!r}: want ends that ascend")

  @property
  def extensions(self) -> list[tuple[int, str]]:
    """[(step at which a schedule ended, "hold" or "rewarm")] of `extended`."""
    found = []
    for item in filter(None, self.extended.split(",")):
      end, _, form = item.partition(":")
      if not re.fullmatch("[1-9][0-9]{0,11}", end) or form not in EXTENSIONS[1:]:
        raise UserError(
          f"optim.extended={self.extended!r}: want STEP:hold or STEP:rewarm, joined by"
          " commas"
        )
      found.append((int(end), form))
    return found

  def with_extension(self, saved: "OptimConfig", old: int, new: int) -> "OptimConfig":
    """These settings in a run that had those of `saved` and `old` steps, now `new`."""
    parts = [part for part in saved.extensions if part[0] < min(old, new)]
    if new > old and self.extend != "stretch":
      parts.append((old, self.extend))
    noted = ",".join(f"{end}:{form}" for end, form in parts)
    return dataclasses.replace(self, extended=noted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesChoice:
  """Shares of the steps in which less than everything is learnt, one after the other;
  all else is as in the rest of the steps (training/stages.py)."""

  parts: float = setting(
    0.0,
    "first share of the steps, in which words, points and boxes become masks and the"
    " language model waits",
    least=0,
    below=1,
  )
  align: float = setting(
    0.0,
    "share of the steps after that, on conversations of one round alone",
    least=0,
    below=1,
  )
  noted: str = setting(
    "",
    'noted by the run itself: the steps where they end, e.g. "parts:600,align:900"',
    may_change=True,
  )

  def __post_init__(self):
    check(self, "stages.")
    if self.parts + self.align >= 1:
      raise UserError(
        f"stages.parts={self.parts} and stages.align={self.align} leave no step for"
        " conversations: their sum must be below 1"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
  """Weight of each term, 0 leaves it out, and the forms that the terms take."""

  token_ce: float = setting(1.0, "weight of the tokens' cross-entropy", least=0)
  mask_bce: float = setting(0.0, "weight of the masks' cross-entropy", least=0)
  dice: float = setting(0.0, "weight of dice", least=0)
  focal: float = setting(0.0, "weight of the focal term", least=0)
  boundary: float = setting(0.0, "weight of the boundary term", least=0)
  iou: float = setting(
    0.0, "weight of the predicted IoU's squared error; as published: none", least=0
  )
  presence: float = setting(
    1.0,
    "weight of whether what is meant is there, with"
    " model.overrides.sam_decoder.presence",
    least=0,
  )
  state_relation: float = setting(
    0.2, "weight of how a mask relates to earlier ones, with model.state", least=0
  )
  state_pointer: float = setting(
    0.2, "weight of which earlier mask is meant, with model.state", least=0
  )
  state_mask: float = setting(
    0.5, "weight of an earlier mask decoded again from what is kept of it", least=0
  )
  dice_scale: float = setting(
    1000.0,
    "what dice divides its sums by: the larger, the less empty masks weigh",
    above=0,
  )
  focal_form: str = setting("mask", "form of the focal term", choices=FOCAL_FORMS)
  boundary_form: str = setting(
    "probabilities", "form of the boundary term", choices=BOUNDARY_FORMS
  )

  def __post_init__(self):
    check(self, "loss.")


LOSS_PRESETS = {
  "paper": LossConfig(token_ce=1.0, mask_bce=2.0, dice=0.5),
  "stage2_code": LossConfig(token_ce=1.0, dice=0.5, focal=1.0, boundary=0.5),
}

# `dataclasses.replace(LOSS_PRESETS[...], **PUBLISHED_FORMS)`: numbers of the release.
PUBLISHED_FORMS = {
  "dice_scale": 10_000.0,
  "focal_form": "published",
  "boundary_form": "published",
}


def loss_config(preset: str, **numbers) -> LossConfig:
  """A preset with the numbers that are not None in place of its own."""
  if preset not in LOSS_PRESETS:
    raise UserError(
      f"unknown loss.preset={preset!r}; there are {', '.join(LOSS_PRESETS)}"
    )
  given = {k: v for k, v in numbers.items() if v is not None}
  try:
    return dataclasses.replace(LOSS_PRESETS[preset], **given)
  except TypeError as error:
    raise UserError(f"loss: {error}") from error
