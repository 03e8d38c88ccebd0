"""A run as frozen dataclasses: made from a ConfigDict once, stored as config.json.

Nothing below `train` sees a ConfigDict, and a checkpoint can be read without the config
file that made it. `base_config` is what a config file starts from.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from input_pipeline import mixtures
from miras_jax.config import boards, lanes, variants
from miras_jax.config import model as model_config
from miras_jax.config.fields import check, setting, with_expanded_paths
from miras_jax.config.overrides import with_overrides
from miras_jax.config.settings import (
  LOSS_PRESETS,
  AugmentChoice,
  DataChoice,
  DistributedConfig,
  LossConfig,
  MeshConfig,
  OptimConfig,
  StagesChoice,
  loss_config,
)
from miras_jax.errors import UserError

DTYPES = ("float32", "bfloat16")
OWN_FIELDS = ("encoder", "state", "state_slots")  # of a model, not of its parts
SEEDS = 2**31  # what every random number generator of a run takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelChoice:
  """A row of VARIANTS, the fields that differ ({"llama.vocab_size": 600}), its encoders
  and a dtype."""

  variant: str = setting(
    "tiny", "size of the model: a row of config/variants.py", choices=variants.VARIANTS
  )
  overrides: dict = setting(
    {}, 'sizes that differ from the row: {"llama": {"lora_rank": 8}}'
  )
  encoder: str = setting(
    "dual",
    "what image tokens are made of: dual, CLIP and ConvNeXt; shared, CLIP and SAM;"
    " sam_only, SAM",
    choices=model_config.ENCODERS,
  )
  state: str = setting(
    "none",
    "what later turns see of earlier masks: none; tokens of the language model; dense,"
    " SAM's mask prompt; or both (docs/state.md)",
    choices=model_config.STATES,
  )
  state_slots: int = setting(8, "most earlier masks that a turn sees", least=1)
  dtype: str = setting(
    "float32", "number type of the arithmetic and of frozen parameters", choices=DTYPES
  )

  def __post_init__(self):
    check(self, "model.")
    for name in OWN_FIELDS:
      if name in self.overrides:
        raise UserError(f"model.overrides.{name}: it is --config.model.{name}=VALUE")
    self.build()

  def build(self) -> model_config.MirasConfig:
    variant = variants.VARIANTS[self.variant]
    try:
      own = {name: getattr(self, name) for name in OWN_FIELDS}
      return with_overrides(variant, self.overrides | own)
    except (ValueError, TypeError) as error:
      text = str(error).replace("self.", "")
      raise UserError(f"model.overrides of {self.variant!r}: {text}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """Everything a run depends on."""

  model: ModelChoice = ModelChoice()
  data: DataChoice = DataChoice()
  augment: AugmentChoice = AugmentChoice()
  mixture: dict = setting(
    {},
    "weight of each data set or group that is drawn (input_pipeline/mixtures.json);"
    " --config.mixture=PRESET, or NAME:WEIGHT,..., or none: data.dir is the data set",
    may_change=True,
  )
  sources: dict = setting(
    {},
    "where a data set of the mixture is, when not below data.dir; none: left out",
    may_change=True,
  )
  mesh: MeshConfig = setting(MeshConfig(), "", may_change=True)
  distributed: DistributedConfig = setting(DistributedConfig(), "", may_change=True)
  optim: OptimConfig = OptimConfig()
  stages: StagesChoice = StagesChoice()
  loss: LossConfig = LOSS_PRESETS["paper"]
  loss_resolution: int = setting(
    64,
    "side in pixels of the square on which masks are compared",
    least=1,
    option="loss.loss_resolution",
  )
  trainable: str = setting(
    "lora_heads",
    "what trains: lora_heads, paper or full, with +suffixes (models/trees.py)",
  )
  init_from: str = setting(
    "",
    "converted folder, workdir or step whose weights the run starts from",
    is_path=True,
  )
  allow_random: bool = setting(
    False,
    "whether frozen parts may be random numbers: for trials of the program only",
    may_change=True,
  )
  steps: int = setting(
    1000, "number of updates of the whole run", least=1, may_change=True
  )
  batch_size: int = setting(
    16, "rows of a batch, those of all devices together", least=1
  )
  seed: int = setting(0, "seed of weights, order and dropout", least=0, below=SEEDS)
  checkpoint_every: int = setting(
    500, "steps between checkpoints", least=1, may_change=True
  )
  keep: int = setting(
    3, "number of newest checkpoints to keep", least=1, may_change=True
  )
  log_every: int = setting(
    20,
    "steps between points in TensorBoard; metrics.jsonl has every step",
    least=1,
    may_change=True,
  )
  boards: str = setting(
    "",
    "where else the numbers go: wandb:PROJECT, mlflow:EXPERIMENT, prometheus, by comma",
    may_change=True,
  )
  probe_every: int = setting(
    100, "steps between losses on a held-out batch", least=1, may_change=True
  )
  max_skipped: int = setting(
    10,
    "so many steps in a row without a finite loss or gradient end the run",
    least=1,
    may_change=True,
  )
  stopped_exit_code: int = setting(
    0,
    "exit status of a run that a signal stopped before its last step; clusters that"
    " take 0 for finished want another, as `miras launch` sets it",
    least=0,
    below=126,
    may_change=True,
  )
  compile_cache: str = setting(
    "",
    "folder that keeps compiled programs between runs",
    may_change=True,
    is_path=True,
  )

  def __post_init__(self):
    check(self)
    if self.stopped_exit_code == 1:
      raise UserError(
        "stopped_exit_code=1 is what a mistake ends with; take 0, or 42 as on clusters"
      )
    boards.parse(self.boards)
    self._check_pack()
    self._check_augment()
    self._check_mixture()

  def _check_pack(self):
    """Splash attention tells only so many conversations of a row apart."""
    llama = self.model.build().llama
    most = lanes.max_segments(llama.head_dim) - 1  # segment 1 is their prefix
    if llama.attention == "splash" and self.data.pack > most:
      raise UserError(
        f"data.pack={self.data.pack}: attention='splash' tells {most} conversations of"
        f" a row apart at head_dim={llama.head_dim}; set data.pack={most} or less, or"
        " model.overrides.llama.attention=xla"
      )

  def _check_augment(self):
    """What is prepared once cannot differ each time it is drawn."""
    if not self.augment.is_on():
      return
    for name in ("in_memory", "cache"):
      if value := getattr(self.data, name):
        raise UserError(
          f"data.{name}={value} keeps pictures as they were prepared once, augment.*"
          f" changes them each time: set --config.data.{name}={type(value)()} or leave"
          " augment.* out"
        )

  def _check_mixture(self):
    mixtures.check(self.mixture, self.sources)
    for name in ("images_dir", "masks_dir"):
      if self.mixture and getattr(self.data, name):
        raise UserError(
          f"data.{name} is of one data set; the data sets of a mixture have their"
          " photographs and masks in their own folders"
        )

  @classmethod
  def from_config_dict(cls, config: ml_collections.ConfigDict) -> "RunConfig":
    """What a config file returns (`base_config`, changed) as a RunConfig."""
    plain = config.to_dict()
    model, loss = plain["model"], plain["loss"]
    resolution = loss.pop("loss_resolution")
    parts = {
      name: kind(**with_expanded_paths(kind, plain.pop(name)))
      for name, kind in _groups(cls)
      if name not in ("model", "loss")
    }
    overrides = dict(_flatten(model.pop("overrides")))
    parts["model"] = ModelChoice(**model, overrides=overrides)
    parts["loss"] = loss_config(**loss)
    return cls(**with_expanded_paths(cls, plain) | parts, loss_resolution=resolution)

  def to_config_dict(self) -> ml_collections.ConfigDict:
    """The ConfigDict that `from_config_dict` makes this run of, every loss a number."""
    values = dict(_flatten(dataclasses.asdict(self)))
    config = base_config()
    for one in settings():
      if one.place in values:
        _set(config, one.option, values[one.place])
    overrides = ml_collections.ConfigDict()
    for path, value in self.model.overrides.items():
      _set(overrides, path, tuple(value) if isinstance(value, list) else value)
    config.model.overrides = overrides
    config.update(mixture=self.mixture, sources=self.sources)
    return config

  @classmethod
  def from_json(cls, text: str) -> "RunConfig":
    """The run that `to_json` wrote. Raises ValueError or TypeError for anything else.

    UserError where a value is out of its bounds.
    """
    try:
      plain = json.loads(text)
    except RecursionError:
      raise ValueError("nested too deeply") from None
    if not isinstance(plain, dict):
      raise ValueError(f"it holds a {type(plain).__name__}, want the fields of a run")
    _check_known(plain, cls, "")
    if "model" not in plain:  # its defaults would be another model than the run's
      raise ValueError("it has no field 'model'")
    parts = {}
    for name, kind in _groups(cls):
      if name in plain:  # runs of an earlier version have no `distributed`
        _check_known(plain[name], kind, f"{name}.")
        parts[name] = kind(**plain[name])
    return cls(**plain | parts)

  def to_json(self):
    return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

  def fitted(self, *, vocab_size, max_len, talk_len=0):
    """The same run with what the data decide filled in, where the user left it open."""
    found = {} if vocab_size is None else {"llama.vocab_size": vocab_size}
    model = dataclasses.replace(self.model, overrides=found | self.model.overrides)
    max_len = self.data.max_len or max_len
    talk_len = self.data.talk_len or talk_len or max_len
    data = dataclasses.replace(self.data, max_len=max_len, talk_len=talk_len)
    return dataclasses.replace(self, model=model, data=data)


def _check_known(plain, kind, prefix):
  """ValueError for what cannot be the fields of `kind`."""
  if not isinstance(plain, dict):
    raise ValueError(
      f"{prefix[:-1]} must hold fields, not a value of type {type(plain).__name__}"
    )
  known = {field.name for field in dataclasses.fields(kind)}
  if unknown := sorted(set(plain) - known):
    raise ValueError(
      f"no field {prefix}{unknown[0]} is known; was it written by another version of"
      " miras_jax? Open it with that one"
    )


def _groups(cls):
  """(name, dataclass) of the fields that hold a group of fields."""
  for field in dataclasses.fields(cls):
    if dataclasses.is_dataclass(field.type):
      yield field.name, field.type


class Setting(NamedTuple):
  """One field of a run. place: in config.json; option: in `--config.OPTION=VALUE`."""

  place: str
  option: str
  kind: type
  default: Any  # None: the preset's
  help: str
  may_change: bool
  choices: tuple = ()


PRESET = Setting(
  "", "loss.preset", str, "paper",
  "weights by name; a weight that is set below wins", False, tuple(LOSS_PRESETS),
)  # fmt: skip


def settings() -> list[Setting]:
  """Every field of a run, and the preset that fills in those of the losses."""
  return [PRESET, *_settings(RunConfig, "", False)]


def _settings(cls, prefix, may_change) -> Iterator[Setting]:
  for field in dataclasses.fields(cls):
    place, about = f"{prefix}{field.name}", field.metadata
    free = may_change or about.get("may_change", False)
    if dataclasses.is_dataclass(field.type):
      yield from _settings(field.type, f"{place}.", free)
      continue
    made = field.default is dataclasses.MISSING
    default = field.default_factory() if made else field.default
    default = None if cls is LossConfig else default
    option = about["option"] or place
    yield Setting(
      place, option, field.type, default, about["help"], free, about["choices"]
    )


def base_config() -> ml_collections.ConfigDict:
  """Every field a run has, with its default; a config file changes what differs."""
  config = ml_collections.ConfigDict()
  for one in settings():
    unset = ml_collections.config_dict.placeholder(one.kind)
    _set(config, one.option, unset if one.default is None else one.default)
  return config


def _set(config, path, value):
  """Sets the dotted `path`, whose groups are made where they are not there."""
  *groups, name = path.split(".")
  for group in groups:
    if group not in config:
      config[group] = ml_collections.ConfigDict()
    config = config[group]
  config[name] = value


def first_difference(old: RunConfig, new: RunConfig) -> tuple[str, Any, Any] | None:
  """The first field whose change makes it another run: (option, old, new), or None."""
  options = {one.place: one.option for one in settings()}
  before, after = (dict(_flatten(dataclasses.asdict(c))) for c in (old, new))
  for place in sorted(before.keys() | after.keys()):
    if before.get(place) != after.get(place) and not _is_free(place):
      return options.get(place, place), before.get(place), after.get(place)
  return None


def _is_free(place):
  """Whether a resumed run may differ there; `mixture.vqa` may because `mixture` may."""
  return not _may_change().isdisjoint((place, place.partition(".")[0]))


@functools.cache
def _may_change():
  """Places of all that may differ between a run and its resumption."""
  free = {one.place for one in settings() if one.may_change}
  for part in dataclasses.fields(model_config.MirasConfig):
    if not dataclasses.is_dataclass(part.type):
      continue
    for field in dataclasses.fields(part.type):
      if field.metadata.get("may_change"):
        free.add(f"model.overrides.{part.name}.{field.name}")
  return frozenset(free)


def shared_by_processes(config) -> dict[str, Any]:
  """{name: value} of what every process of a run must have alike."""
  flat = dict(_flatten(dataclasses.asdict(config)))
  return {k: v for k, v in flat.items() if k != "distributed.process"}


def _flatten(tree, prefix=""):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value
