"""A run that starts from trained weights: `--config.init_from=DIR`.

DIR is what `miras convert` wrote, a workdir of `miras train` or one of its steps.

The model is the folder's, the tokenizer too; the run's own `model.overrides` may change
how it is trained. Leaves that the folder lacks start from the run's seed.
"""

import dataclasses
import functools
import re

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from input_pipeline.tokenizer import load_tokenizer
from miras_jax import logs
from miras_jax.convert.folder import load_params, open_tree
from miras_jax.convert.job import OF_SAM
from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.training import step as train_step

# What a run may say of the model beside its folder: none of it changes a leaf that the
# folder has.
FREE = re.compile(
  r"llama\.(lora_\w+|remat|attention|scan_unroll)|convnext\.layer_scale_init"
  r"|seg_prompt\.(alignment|seg_state|num_heads)|sam_decoder\.presence"
)
# Suffix of a trainable preset, and those that it stands for.
NEW, NEW_SUFFIXES = "new", {"projector", "mining"}
# Leaves that published weights do not have and a run may add.
FRESH = (
  r"/lora_[ab]$", r"^seg_prompt/align/", r"^state(_tokens)?/",
  r"^sam/decoder/presence_",
)  # fmt: skip
# Those of a dense state alone: of both, masks are made again from their tokens.
SPARE = (r"^state/again/",)
SHOWN = 8  # arrays that are named one by one


def fitted(config):
  """The run with model and tokenizer of its `init_from`. Raises UserError."""
  if not config.init_from:
    return config
  with open_tree(config.init_from) as tree:
    theirs, tokenizer, new = tree.config.model, tree.tokenizer, tree.new
  model = _model(config.model, theirs, config.init_from)
  rows = model.overrides["llama.vocab_size"]
  data = dataclasses.replace(config.data, tokenizer=_tokenizer(config, tokenizer, rows))
  trainable = _trainable(config, {path.split("/")[0] for path in new})
  return dataclasses.replace(config, model=model, data=data, trainable=trainable)


def _trainable(config, new):
  """The preset with `+new` written out. UserError for a new part that stays frozen."""
  preset, *suffixes = config.trainable.split("+")
  untrained = sorted(new & NEW_SUFFIXES - set(suffixes)) if preset != "full" else []
  if NEW in suffixes:
    rest = [name for name in suffixes if name != NEW]
    return "+".join([preset, *rest, *untrained])
  if untrained and not config.allow_random:
    raise UserError(
      f"init_from={config.init_from} has {' and '.join(untrained)} as random numbers,"
      f" which trainable={config.trainable!r} leaves frozen; say"
      f" --config.trainable={'+'.join([config.trainable, *untrained])}"
    )
  return config.trainable


def resumed(config, saved):
  """The same for a run that goes on, from what it was: the folder may be gone."""
  if not config.init_from:
    return config
  overrides = saved.model.overrides | config.model.overrides
  model = dataclasses.replace(config.model, overrides=overrides)
  given, trainable = config.data.tokenizer, config.trainable
  tokenizer = saved.data.tokenizer if given == "bpe" else given
  data = dataclasses.replace(config.data, tokenizer=tokenizer)
  if NEW in trainable.split("+"):
    trainable = saved.trainable
  return dataclasses.replace(config, model=model, data=data, trainable=trainable)


def _model(ours, theirs, folder):
  """ModelChoice of the folder with the run's free fields. Raises UserError."""
  if ours.variant != theirs.variant:
    raise UserError(
      f"model.variant={ours.variant!r}, but init_from={folder} holds"
      f" {theirs.variant!r}; say --config.model.variant={theirs.variant}"
    )
  _check_encoder(ours.encoder, theirs.encoder, folder)
  if theirs.state not in (ours.state, "none") and ours.state != "both":
    raise UserError(
      f"model.state={ours.state!r}, but init_from={folder} holds {theirs.state!r}; say"
      f" --config.model.state={theirs.state}"
    )
  built = theirs.build()
  if built.has_dense_state and ours.state_slots != theirs.state_slots:
    raise UserError(
      f"model.state_slots={ours.state_slots}, but init_from={folder} holds"
      f" {theirs.state_slots}; say --config.model.state_slots={theirs.state_slots}"
    )
  for path, value in ours.overrides.items():
    found = _field(built, path)
    if not FREE.fullmatch(path) and found != _plain(value):
      raise UserError(
        f"model.overrides.{path}={value!r}, but init_from={folder} has {found!r}; leave"
        " it out"
      )
  # Written out, so that a tokenizer's size cannot decide it.
  size = {"llama.vocab_size": built.llama.vocab_size}
  overrides = theirs.overrides | ours.overrides | size
  state = {"state": ours.state, "state_slots": ours.state_slots}
  return dataclasses.replace(theirs, overrides=overrides, dtype=ours.dtype, **state)


def _check_encoder(ours, theirs, folder):
  if ours == theirs:
    return
  remedy = f"say --config.model.encoder={theirs}"
  if theirs == "dual":
    remedy += (
      ", or make another folder of the published parts with miras convert"
      f" --set=encoder={ours} --new={OF_SAM[ours]}"
    )
  raise UserError(
    f"model.encoder={ours!r}, but init_from={folder} holds {theirs!r}; {remedy}"
  )


def _field(cfg, path):
  """A dotted field of a config; None below a part that is absent."""
  for name in path.split("."):
    cfg = getattr(cfg, name, None)
  return cfg


def _plain(value):
  return tuple(value) if isinstance(value, list) else value


def _tokenizer(config, folder, rows):
  """Path of the tokenizer: the folder's; another one must give the same ids.

  Without one, a given one must fit into the embedding's rows.
  """
  given = config.data.tokenizer
  if not folder.is_dir():
    if given == "bpe":
      raise UserError(
        f"init_from={config.init_from} has no tokenizer/; name the one of its weights:"
        " --config.data.tokenizer=PATH"
      )
    if (size := load_tokenizer(given).vocab_size) > rows:
      raise UserError(
        f"data.tokenizer={given} has {size} ids, the embedding of {config.init_from}"
        f" {rows} rows; name the tokenizer of these weights"
      )
    return given
  if given != "bpe":
    ours, theirs = load_tokenizer(given), load_tokenizer(folder)
    if ours.fingerprint() != theirs.fingerprint():
      raise UserError(
        f"data.tokenizer={given} gives other ids than {folder}, which the weights were"
        " trained with; leave it out"
      )
  return str(folder)


def load_state(task, shapes, tx):
  """A TrainState at step 0 with the folder's parameters, each on its own devices.

  shapes: TrainState of ShapeDtypeStruct with shardings. The moving average starts as a
  copy. Raises UserError naming the first leaf that is missing or of another shape.
  """
  config = task.config
  wanted = flatten_dict(trees.merge(shapes.trainable, shapes.frozen), sep="/")
  params, missing = load_params(
    config.init_from, unflatten_dict(wanted, sep="/"), optional=FRESH, spare=SPARE
  )
  params = flatten_dict(params, sep="/")
  if missing:
    parts = missing  # by module where they are many
    if len(missing) > SHOWN:
      parts = sorted({"/".join(name.split("/")[:2]) for name in missing})
    logs.log.info(
      "%s has no %s (%d arrays): from seed %d",
      config.init_from, ", ".join(parts), len(missing), config.seed,
    )  # fmt: skip
    params |= _seeded(task.init, {k: wanted[k] for k in missing}, config.seed)
  trainable = _pick(params, shapes.trainable)
  make = functools.partial(_rest, tx=tx, config=config)
  rest = shapes.replace(trainable=None, frozen=None)
  placed = jax.tree.map(lambda x: x.sharding, rest)
  state = jax.jit(make, out_shardings=placed)(trainable)
  return state.replace(trainable=trainable, frozen=_pick(params, shapes.frozen))


def _rest(trainable, *, tx, config):
  """All of a fresh state but the parameters (traced)."""
  state = train_step.create_state(
    trainable, {}, tx, seed=config.seed, ema=config.optim.ema
  )
  return state.replace(trainable=None, frozen=None)


def _pick(flat, part):
  return unflatten_dict({k: flat[k] for k in flatten_dict(part, sep="/")}, sep="/")


def _seeded(init, wanted, seed):
  """{path: array} of some leaves; the others are never made."""

  def make(key):
    flat = flatten_dict(init(key), sep="/")
    return {path: flat[path].astype(x.dtype) for path, x in wanted.items()}

  placed = {path: x.sharding for path, x in wanted.items()}
  return jax.jit(make, out_shardings=placed)(jax.random.key(seed))
