"""The programs of an answer, as chat, eval, segment and serve run them.

They are those of `inference.generator.Generator`, on parameters as `inference.prepare`
leaves them (layers apart, adapters merged, perhaps int8), cut by the trainer's table:

  encode   both views of an image -> its tokens and SAM's features
  prefill  a whole conversation into an empty cache, the longest that is ever read
  decode   new tokens until all rows have ended; one of them is what the FLOPs count
  read     the masks of the [SEG] of the answers

What a program holds beside its arguments is its own; parameters, caches and encodings
are arguments of `prefill` and `decode`, so the largest of the four is what a device
needs.
"""

import functools

import jax
import jax.numpy as jnp

from input_pipeline import batch_table
from input_pipeline.tokenizer import TokenIds
from miras_jax.inference.generate import Rows, State, encode_images, new_state
from miras_jax.inference.generator import Generator
from miras_jax.inference.load import MOST_MASKS
from miras_jax.inference.prepare import prepare
from miras_jax.inference.sampling import Sampling
from miras_jax.models import trees
from miras_jax.models.miras import Miras
from miras_jax.parallel import sharding
from miras_jax.training.initial_state import split_params

PROGRAMS = ("encode", "prefill", "decode", "read")
NEW_TOKENS = 128  # the longest answer: the default of chat, segment and serve


def make(program, run_task, config, mesh, views, weights):
  """(jitted, shapes) of one program; views: the batch that holds both."""
  model, params = _model(run_task, config, mesh, weights)
  masks = max(config.data.max_masks, MOST_MASKS)
  generator = Generator(model, None, None, max_new_tokens=NEW_TOKENS, max_masks=masks)
  views = {name: views[name] for name in batch_table.ENCODER_INPUTS}
  if program == "encode":
    return generator.jitted(program), (params, views)
  state, encoded = _state(model, config, mesh), _encoded(model, params, views, mesh)
  whole = functools.partial(_placed, mesh=mesh)
  ids = whole(TokenIds(*[jax.ShapeDtypeStruct((), jnp.int32)] * len(TokenIds._fields)))
  rows, length = config.batch_size, config.data.max_len
  sampling = whole(jax.eval_shape(lambda: Sampling.greedy(rows)))
  more = {
    "prefill": (whole(_rows(rows, length)), ids),
    "decode": (ids, sampling, whole(jax.ShapeDtypeStruct((), jnp.int32))),
    "read": (ids, *_earlier(model.cfg, rows, mesh)),
  }[program]
  return generator.jitted(program), (params, state, encoded, *more)


def _model(run_task, config, mesh, weights):
  """(Miras, parameters) that answer, in the types in which a run keeps them."""

  def init():
    return trees.merge(*split_params(run_task.init(jax.random.key(0)), config))

  shapes = jax.eval_shape(init)  # nothing runs here
  places = sharding.param_shardings(shapes, mesh, run_task.rules)
  shapes = jax.tree.map(_struct, shapes, places)
  cfg, params = prepare(config.model.build(), shapes, weights)
  return Miras(cfg, jnp.dtype(config.model.dtype)), params


def _state(model, config, mesh):
  slots = config.data.max_len + NEW_TOKENS
  make_state = functools.partial(new_state, model, config.batch_size, slots, NEW_TOKENS)
  found = jax.eval_shape(make_state)
  rows = found._replace(cache=None)._asdict()
  rows = {name: _along(mesh, "rows", x) for name, x in rows.items() if name != "cache"}
  cache = jax.tree.map(functools.partial(_along, mesh, "cache"), found.cache)
  return State(cache=cache, **rows)


def _encoded(model, params, views, mesh):
  found = jax.eval_shape(functools.partial(encode_images, model), params, views)
  return jax.tree.map(functools.partial(_along, mesh, "rows"), found)


def _earlier(cfg, rows, mesh):
  """What `read` takes of earlier masks: first [SEG], hints, slots; nothing without."""
  if not cfg.has_dense_state:
    return ()
  E, Q = cfg.state_slots, cfg.mask_side
  shapes = {
    "masks": jax.ShapeDtypeStruct((rows, E, Q, Q), jnp.uint8),
    "valid": jax.ShapeDtypeStruct((rows, E), jnp.int32),
    "origin": jax.ShapeDtypeStruct((rows, E), jnp.int32),
    "pick": jax.ShapeDtypeStruct((rows,), jnp.int32),
  }
  slots = jax.tree.map(functools.partial(_along, mesh, "rows"), shapes)
  return _placed(jax.ShapeDtypeStruct((), jnp.int32), mesh), None, slots


def _rows(rows, length):
  row_B = jax.ShapeDtypeStruct((rows,), jnp.int32)
  row_BP = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  whole_B = jax.ShapeDtypeStruct((rows,), jnp.bool_)
  return Rows(row_BP, row_BP, row_B, row_B, whole_B)


def _along(mesh, name, x):
  return _struct(x, sharding.activation_sharding(mesh, name, x.shape))


def _placed(shapes, mesh):
  where = sharding.replicated_sharding(mesh)
  return jax.tree.map(lambda x: _struct(x, where), shapes)


def _struct(x, where):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
