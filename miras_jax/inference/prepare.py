"""Trained parameters -> those that answer: adapters merged, layers apart, perhaps int8.

Every token of a stacked decoder copies each layer's weights out of the stack before it
uses them, and an adapter is two more products a projection; neither is needed once
nothing trains.

Merging is exact but for rounding: a float32 kernel plus its adapter is rounded once, to
float32 (relative 6e-8). A bfloat16 kernel is rounded to bfloat16 after the sum, 2^-9 of
each weight at most: as much as the kernel itself has been rounded by, while the adapter
apart would have been kept in float32.

`int8`: the decoder's projections and its head as int8 and one float32 scale an output
channel, the largest weight of the channel at 127, rounded to nearest. Embeddings, norms
and the image encoders stay as they are.

L layers, D inputs, F outputs, R LoRA rank.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from miras_jax.models.layers import KERNEL_SCALE

WEIGHTS = ("trained", "int8")
LAYERS = ("llm", "layers")
HEAD = ("llm", "lm_head", "kernel")
ADAPTER = ("lora_a", "lora_b")
LARGEST = 127


def prepare(cfg, params, weights="trained") -> tuple:
  """(MirasConfig, params) of training -> those of the same model for inference.

  `params` is used up: a stack of layers is deleted as soon as it is taken apart, the
  small ones first, so at no time is there more than all weights and one stack. Each
  layer lies on the devices as its stack did. weights: one of WEIGHTS.

  Of ShapeDtypeStructs with shardings the result is such structs.
  """
  flat = flatten_dict(params)
  params.clear()
  out = {}
  for path in sorted(flat, key=lambda path: _size(flat[path])):
    if path[-1] in ADAPTER:  # goes with its kernel
      continue
    adapter = [flat[(*path[:-1], name)] for name in ADAPTER if _has(flat, path, name)]
    out |= _apart(cfg.llama, path, flat.pop(path), adapter, weights)
  changed = dataclasses.replace(cfg.llama, stacked=False, lora_rank=0)
  return dataclasses.replace(cfg, llama=changed), unflatten_dict(out)


def _size(leaf):
  return leaf.size * leaf.dtype.itemsize


def _has(flat, path, name):
  return path[-1] == "kernel" and (*path[:-1], name) in flat


def _apart(cfg, path, leaf, adapter, weights):
  """{path: array} of what becomes of one leaf."""
  int8 = weights == "int8" and path[-1] == "kernel"
  in_layers = path[: len(LAYERS)] == LAYERS
  if not in_layers and not (int8 and path == HEAD):
    return {path: leaf}
  scale = cfg.lora_alpha / max(cfg.lora_rank, 1)
  change = functools.partial(_change, int8=int8, scale=scale)
  real = isinstance(leaf, jax.Array)
  make, put = (change, jax.device_put) if real else (_shapes_of(change), _struct)
  out, where = {}, _where(leaf, in_layers)
  for i in range(cfg.depth) if in_layers else (None,):
    name = path if i is None else ("llm", f"layer_{i}", *path[len(LAYERS) :])
    found = make(leaf, adapter, i)
    out[name] = put(found[0], where)
    if int8:
      out[(*name[:-1], KERNEL_SCALE)] = put(found[1], _last_axis(where))
    jax.block_until_ready(found)  # else the results of all leaves wait at once
  if real:
    leaf.delete()
  return out


def _shapes_of(function):
  return functools.partial(jax.eval_shape, function)


def _struct(shape, where):
  return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


@functools.partial(jax.jit, static_argnames=("int8", "scale"))
def _change(leaf, adapter, i, *, int8, scale):
  """(layer i of a leaf with its adapter in it, scales or None)."""
  if i is not None:
    leaf, adapter = leaf[i], [part[i] for part in adapter]
  kernel = leaf
  if adapter:
    a_DR, b_RF = (part.astype(jnp.float32) for part in adapter)
    delta_DF = jnp.matmul(a_DR, b_RF, precision="highest") * scale
    kernel = leaf.astype(jnp.float32) + delta_DF
  return quantise(kernel) if int8 else (kernel.astype(leaf.dtype), None)


def quantise(kernel_DF) -> tuple:
  """(int8 [D, F], float32 [F]): their product is the kernel, but for rounding."""
  kernel_DF = kernel_DF.astype(jnp.float32)
  scale_F = jnp.maximum(jnp.abs(kernel_DF).max(0), 1e-30) / LARGEST
  return jnp.round(kernel_DF / scale_F).astype(jnp.int8), scale_F


def rounded(params) -> dict:
  """Trained parameters with the numbers that int8 leaves of them, as float32."""
  flat = flatten_dict(params)
  for path, leaf in flat.items():
    if path[-1] == "kernel" and (path[: len(LAYERS)] == LAYERS or path == HEAD):
      each = jax.vmap(quantise) if leaf.ndim == 3 else quantise
      values, scale = each(jnp.asarray(leaf))
      flat[path] = values * scale[..., None, :]
  return unflatten_dict(flat)


def _where(leaf, in_layers):
  """The sharding of a leaf, without the axis of the layers."""
  where = leaf.sharding
  if in_layers and isinstance(where, NamedSharding):
    return NamedSharding(where.mesh, P(*where.spec[1:]))
  return where


def _last_axis(where):
  """The sharding of a kernel's scales: as its last axis is cut."""
  if isinstance(where, NamedSharding):
    return NamedSharding(where.mesh, P(*where.spec[1:2]))
  return where
