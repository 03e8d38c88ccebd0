"""Features of the frozen encoders: which can be cached, their manifest, their program.

`miras data cache` writes them, the trainer checks that they are of its own weights.
"""

import dataclasses
import functools
import json

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from input_pipeline import batch_table
from miras_jax.checkpoint import fingerprint
from miras_jax.convert.folder import load_params
from miras_jax.errors import UserError
from miras_jax.models.miras import Miras, batch_sizes
from miras_jax.parallel import sharding
from miras_jax.training import initial_state

# Parameters that each feature depends on, of those that a model has.
PARTS = {
  "sam_features": ("sam/encoder/", "sam/fine/"),
  "image_tokens": ("clip/", "convnext/", "mining/", "projector/"),
}
# The parts of the config that each depends on, in a "dual" model and in others.
CONFIGS = {
  "sam_features": ("sam_encoder",),
  "image_tokens": ("clip", "convnext"),
}
SHARED_CONFIGS = {
  "sam_features": ("sam_encoder",),
  "image_tokens": ("clip", "sam_encoder", "encoder", "token_grid"),
}


def encoder_params(run_task, mesh) -> tuple[list[str], dict]:
  """(features that can be cached, {path: array} of what makes them).

  The arrays are as training has them, whole on every device; the decoder's are never
  made or read. Raises UserError when every encoder is trained.
  """
  config = run_task.config
  split = functools.partial(_split, run_task)
  key = jax.random.key(config.seed)
  names, wanted = encoder_shapes(run_task)
  replicated = sharding.replicated_sharding(mesh)
  if not config.init_from:
    # As the run makes them: another compilation may round a random number otherwise.
    def make(key):
      return {p: x for p, x in split(key)[1].items() if p in wanted}

    return names, initial_state.run_once(make, dict.fromkeys(wanted, replicated), key)
  placed = {
    p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated)
    for p, x in wanted.items()
  }
  params, missing = load_params(
    config.init_from, unflatten_dict(placed, sep="/"), optional=()
  )
  if missing:
    raise UserError(f"init_from={config.init_from} lacks {missing[0]}")
  return names, flatten_dict(params, sep="/")


def encoder_shapes(run_task) -> tuple[list[str], dict]:
  """(features that can be cached, {path: shape and type} of what makes them).

  Raises UserError when every encoder is trained.
  """
  config = run_task.config
  trained, frozen = jax.eval_shape(
    lambda: _split(run_task, jax.random.key(config.seed))
  )
  encoder = config.model.encoder
  names = cacheable(trained, encoder)
  if not names:
    raise UserError(
      f"trainable={config.trainable!r} trains every encoder of encoder={encoder!r}"
      " (SAM's too where it learns finer features): there is nothing to cache"
    )
  return names, {p: x for p, x in frozen.items() if needed(p, names, encoder)}


def _split(run_task, key):
  """({path: trained}, {path: frozen}) of a fresh run (traced)."""
  params = run_task.init(key)
  parts = initial_state.split_params(params, run_task.config)
  return tuple(flatten_dict(part, sep="/") for part in parts)


def cacheable(trained, encoder="dual") -> list[str]:
  """Names of the features that no path of `trained` can change."""
  return [
    name
    for name in PARTS
    if not any(path.startswith(_parts(name, encoder)) for path in trained)
  ]


def needed(path, names, encoder="dual") -> bool:
  """Whether one of the features `names` depends on a parameter."""
  return any(path.startswith(_parts(name, encoder)) for name in names)


def _parts(name, encoder):
  """Image tokens that are made of SAM's features depend on what makes those."""
  return PARTS[name] if encoder == "dual" else PARTS["sam_features"] + PARTS[name]


def make_manifest(config, names, params) -> dict:
  """What a run must have alike to use the cache: weights, encoders, views."""
  cfg = config.model.build()
  sizes = batch_sizes(cfg)
  encoders = CONFIGS if cfg.encoder == "dual" else SHARED_CONFIGS
  built = dataclasses.asdict(cfg)
  settings = {f"data.{k}": getattr(config.data, k) for k in ("view",)}
  settings["model.dtype"] = config.model.dtype
  for part in sum((encoders[name] for name in names), ()):
    settings[part] = built[part]
  return {
    "features": {n: list(batch_table.example_shape(n, sizes)) for n in names},
    "settings": json.loads(json.dumps(settings)),
    "weights": fingerprint.table(params),
  }


def check(cache, config, frozen) -> None:
  """UserError unless a FeatureCache is of these weights and settings.

  frozen: the run's frozen parameters, a nested dict.
  """
  names = list(cache.shapes)
  flat = flatten_dict(frozen, sep="/")
  flat = {p: x for p, x in flat.items() if needed(p, names, config.model.encoder)}
  expected = make_manifest(config, names, flat)
  ours, theirs = expected["settings"], cache.manifest["settings"]
  for name in sorted(ours.keys() | theirs.keys(), key=lambda n: (n != "encoder", n)):
    if ours.get(name) != theirs.get(name):
      raise _other(cache, f"{name} {theirs.get(name)}, this run has {ours.get(name)}")
  wrong = fingerprint.first_mismatch(cache.manifest["weights"], expected["weights"])
  if wrong:
    raise _other(cache, f"other weights: {wrong[0]} differs")
  if expected["features"] != cache.manifest["features"]:
    raise _other(cache, f"features {cache.manifest['features']}")


def _other(cache, difference):
  return UserError(
    f"data.cache={cache.folder} was made with {difference}; take the config it was made"
    " with, or make another with miras data cache"
  )


def encode(model, names, params, batch) -> dict:
  """{feature: values in the cache's type} of a batch of views (traced)."""
  apply = functools.partial(model.apply, {"params": params})
  made, views = {}, (batch["image_aux"],)
  if "sam_features" in names:
    seen = batch["image_sam"], batch["valid_hw"]
    sam_BHWC = apply(*seen, method=Miras.sam_features)
    made["sam_features"] = _in_cache_type("sam_features", sam_BHWC)
    if model.cfg.encoder != "dual":
      views += sam_BHWC, batch["valid_hw"]
  if "image_tokens" in names:
    tokens_BND = apply(*views, method=Miras.image_tokens)
    made["image_tokens"] = _in_cache_type("image_tokens", tokens_BND)
  return made


def _in_cache_type(name, x):
  return x.astype(batch_table.TABLE[name].dtype)
