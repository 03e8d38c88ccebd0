"""A run as frozen dataclasses: made from a ConfigDict once, stored as config.json.

Nothing below `train` sees a ConfigDict, and a checkpoint can be read without the config
file that made it.
"""

import dataclasses
import json

from miras_jax.config import model as model_config
from miras_jax.config import variants
from miras_jax.errors import UserError
from miras_jax.models.splash import max_segments
from miras_jax.parallel.distributed import DistributedConfig
from miras_jax.parallel.mesh import MeshConfig
from miras_jax.training import losses
from miras_jax.training.optim import OptimConfig

DTYPES = ("float32", "bfloat16")

_POSITIVE = (
  "steps", "batch_size", "checkpoint_every", "keep", "log_every", "probe_every",
  "max_skipped",
)  # fmt: skip
SEEDS = 2**31  # what every random number generator of a run takes

# What may differ between a run and its resumption: length, place and bookkeeping.
MAY_CHANGE = (
  "steps",
  "checkpoint_every",
  "keep",
  "log_every",
  "probe_every",
  "compile_cache",
  "max_skipped",
  "model.overrides.llama.attention",
  "model.overrides.llama.remat",
  "model.overrides.llama.scan_unroll",
  "mesh.",
  "distributed.",
  "data.dir",
  "data.images_dir",
  "data.masks_dir",
  "data.threads",
  "data.in_memory",
  "data.cache",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice:
  """A row of VARIANTS, the fields that differ ({"llama.vocab_size": 600}), a dtype."""

  variant: str
  overrides: dict
  dtype: str = "float32"

  def __post_init__(self):
    if self.variant not in variants.VARIANTS:
      raise UserError(
        f"unknown model.variant={self.variant!r};"
        f" there are {', '.join(variants.VARIANTS)}"
      )
    if self.dtype not in DTYPES:
      raise UserError(f"unknown model.dtype={self.dtype!r}; there are {DTYPES}")
    self.build()

  def build(self):
    """The MirasConfig."""
    variant = variants.VARIANTS[self.variant]
    try:
      return model_config.with_overrides(variant, self.overrides)
    except (ValueError, TypeError) as error:
      text = str(error).replace("self.", "")
      raise UserError(f"model.overrides of {self.variant!r}: {text}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataChoice:
  """Where the conversations are and how they become a Batch."""

  dir: str
  images_dir: str = ""
  masks_dir: str = ""
  split_train: str = "train"
  split_eval: str = "val"
  limit: int = 0
  tokenizer: str = "bpe"
  vocab_size: int = 1024
  template: str = "llava_v1"
  system: str = ""
  name_targets: bool = True
  view: str = "letterbox"
  max_len: int = 0
  max_masks: int = 2
  pack: int = 1
  talk_len: int = 0
  threads: int = 0
  in_memory: bool = False
  cache: str = ""

  def __post_init__(self):
    least = {"pack": 1, "max_masks": 1, "limit": 0, "max_len": 0, "talk_len": 0}
    for name, value in (least | {"threads": 0}).items():
      if getattr(self, name) < value:
        raise UserError(f"data.{name}={getattr(self, name)} must be at least {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """Everything a run depends on."""

  model: ModelChoice
  data: DataChoice
  mesh: MeshConfig
  optim: OptimConfig
  loss: losses.LossConfig
  loss_resolution: int
  trainable: str
  steps: int
  batch_size: int
  seed: int
  checkpoint_every: int
  keep: int
  log_every: int
  probe_every: int
  compile_cache: str = ""
  init_from: str = ""
  max_skipped: int = 10
  distributed: DistributedConfig = DistributedConfig()

  def __post_init__(self):
    for name in _POSITIVE:
      if getattr(self, name) < 1:
        raise UserError(f"{name}={getattr(self, name)} must be at least 1")
    if not 0 <= self.seed < SEEDS:
      raise UserError(f"seed={self.seed} must be at least 0 and less than {SEEDS}")
    self._check_pack()

  def _check_pack(self):
    """Splash attention tells only so many conversations of a row apart."""
    llama = self.model.build().llama
    most = max_segments(llama.head_dim) - 1  # segment 1 is their prefix
    if llama.attention == "splash" and self.data.pack > most:
      raise UserError(
        f"data.pack={self.data.pack}: attention='splash' tells {most} conversations of"
        f" a row apart at head_dim={llama.head_dim}; set data.pack={most} or less, or"
        " model.overrides.llama.attention=xla"
      )

  @classmethod
  def from_config_dict(cls, config):
    """ml_collections.ConfigDict (the fields of configs/common.py) -> RunConfig."""
    plain = config.to_dict()
    model, loss = plain.pop("model"), plain.pop("loss")
    model["overrides"] = dict(_flatten(model["overrides"]))
    resolution = loss.pop("loss_resolution")
    return cls(
      model=ModelChoice(**model),
      data=DataChoice(**plain.pop("data")),
      mesh=MeshConfig(**plain.pop("mesh")),
      optim=OptimConfig(**plain.pop("optim")),
      distributed=DistributedConfig(**plain.pop("distributed")),
      loss=loss_config(**loss),
      loss_resolution=resolution,
      **plain,
    )

  @classmethod
  def from_json(cls, text):
    plain = json.loads(text)
    parts = {
      "model": ModelChoice,
      "data": DataChoice,
      "mesh": MeshConfig,
      "optim": OptimConfig,
      "loss": losses.LossConfig,
      "distributed": DistributedConfig,
    }
    # Runs of an earlier version have no `distributed`.
    made = {k: kind(**plain[k]) for k, kind in parts.items() if k in plain}
    return cls(**plain | made)

  def to_json(self):
    return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

  def fitted(self, *, vocab_size, max_len, talk_len=0):
    """The same run with what the data decide filled in, where the user left it open."""
    found = {} if vocab_size is None else {"llama.vocab_size": vocab_size}
    overrides = found | self.model.overrides
    model = dataclasses.replace(self.model, overrides=overrides)
    max_len = self.data.max_len or max_len
    talk_len = self.data.talk_len or talk_len or max_len
    data = dataclasses.replace(self.data, max_len=max_len, talk_len=talk_len)
    return dataclasses.replace(self, model=model, data=data)


def loss_config(preset, **numbers):
  """A preset with the numbers that are not None in place of its own."""
  if preset not in losses.LOSS_PRESETS:
    raise UserError(
      f"unknown loss.preset={preset!r}; there are {', '.join(losses.LOSS_PRESETS)}"
    )
  given = {k: v for k, v in numbers.items() if v is not None}
  try:
    return dataclasses.replace(losses.LOSS_PRESETS[preset], **given)
  except (TypeError, ValueError) as error:
    raise UserError(f"loss: {str(error).replace('self.', '')}") from error


def first_difference(old, new):
  """The first field whose change makes it another run: (name, old, new), or None."""
  old, new = (dict(_flatten(dataclasses.asdict(c))) for c in (old, new))
  for name in sorted(old.keys() | new.keys()):
    free = any(name == m or (m[-1] == "." and name.startswith(m)) for m in MAY_CHANGE)
    if not free and old.get(name) != new.get(name):
      return name, old.get(name), new.get(name)
  return None


def shared_by_processes(config):
  """{name: value} of what every process of a run must have alike."""
  flat = dict(_flatten(dataclasses.asdict(config)))
  return {k: v for k, v in flat.items() if k != "distributed.process"}


def _flatten(tree, prefix=""):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
