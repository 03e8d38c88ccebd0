"""The same entry without a compiler: memory, traffic and time by stated formulas.

Good enough to order configurations and to leave out those that cannot fit; `weigh` is
the judge. Per device, of b rows of T tokens in a micro-batch:

  arguments    every leaf of the state over the mesh axes that cut it
  gradients    float32, as the parameters that train; embedding's and head's whole
  kept         for the backward pass, by remat policy: each layer's input (full); all
               projections (dots); attention weights too (minimal, none)
  at work      one layer's projections and, where it is gathered, its weights, twice;
               the head's gradient whole, SAM's logits
  traffic      all weights once a pass (forward, backward, again), 12 x activations, or
               10 x where they are computed again and not kept; 6 x those of SAM's
               encoder, for all encoders
  all-gather   weights that fsdp cuts, once a pass and micro-batch; once a step where
               they are kept (`mesh.keep_gathered`), which takes their room
  all-reduce   gradients, twice their bytes, once a step; over `fsdp`, once a
               micro-batch unless weights are kept; over `tensor`, 8 activations a layer

These multiples, and what `tensor` leaves whole in the residual stream, are those of
compiled 7B steps: docs/planning.md, "How far off the formulas are".
"""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax.config.run import OWN_FIELDS
from miras_jax.config.settings import MeshConfig
from miras_jax.models import flops, trees
from miras_jax.models.sam_attention import MAX_LOGITS
from miras_jax.parallel import gathered, sharding
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import fit, topology
from miras_jax.planning.rates import rates

BFLOAT16, FLOAT32 = 2, 4
MASK_MAPS = 20  # as large as its features that the decoder keeps of a mask
ADAM = 3  # copies of what trains: itself and two moments


class _Mesh:
  """As much of a Mesh as sharding rules ask for."""

  def __init__(self, shape):
    self.shape = shape


def estimate(config, place, *, per_chip=0, mesh=None, cached=False):
  """Entry of a train step of `config`; `source` is "model".

  place: name of a topology, or its Hardware.
  """
  place = topology.hardware(place) if isinstance(place, str) else place
  chip, devices = place.chip, place.num_devices
  config = dataclasses.replace(config, mesh=mesh) if mesh else config
  config, notes = fit.fit(
    config, devices, num_slices=place.num_slices, per_chip=per_chip
  )
  sizes = mesh_lib.resolve(config.mesh, devices)
  found = flops.example(config, cached=cached)
  llama = config.model.build().llama
  entry = {
    "topology": place.name,
    "program": "train",
    "source": "model",
    "chip": chip.name,
    "devices": devices,
    "chips": devices // chip.devices,
    "mesh": sizes,
    "model": config.model.variant,
    "length": config.data.max_len,
    "batch_size": config.batch_size,
    "pack": config.data.pack,
    "accumulation": config.optim.accumulation,
    "remat": llama.remat,
    "attention": llama.attention,
    "hbm_capacity": int(chip.hbm_bytes),
    "flops_useful": found.useful * config.batch_size / devices,
    "flops_analytic": found.executed * config.batch_size / devices,
    "flops": found.executed * config.batch_size / devices,
    "tokens_per_step": config.batch_size * config.data.max_len,
    "notes": [*notes, "estimated by formulas, not compiled"],
    "traps": [],
  }
  parts = _parts(_key(config), config.model.dtype, tuple(sizes.items()))
  parts = parts | {"kept": _is_kept(config, sizes, parts, chip)}
  entry["argument_bytes"] = int(parts["arguments"])
  entry["hbm_bytes"] = int(parts["arguments"] + _working(config, sizes, parts))
  entry["fits"] = entry["hbm_bytes"] <= chip.hbm_bytes
  entry["hbm_traffic"] = int(_traffic(config, sizes, parts, cached))
  entry["collectives"] = _collectives(config, sizes, parts)
  return entry | _rates(entry, chip, sizes, place.shape)


def _is_kept(config, sizes, parts, chip):
  whole = parts["arguments"] + parts["cut"] + 2 * parts["trains"] / sizes["tensor"]
  return gathered.keep(
    config.mesh.keep_gathered,
    fsdp=sizes["fsdp"],
    accumulation=config.optim.accumulation,
    needed=whole,
    capacity=chip.hbm_bytes,
  )


def _rates(entry, chip, sizes, shape):
  times = {"compute": entry["flops"] / chip.peak_flops}
  times |= {"hbm": entry["hbm_traffic"] / chip.hbm_bandwidth, "ici": 0.0, "dcn": 0.0}
  for sent in entry["collectives"]:
    speed = chip.dcn_bandwidth
    if sent["network"] == "ici":
      speed = chip.ici_bandwidth * _links(chip, shape, sizes[sent["axis"]])
    times[sent["network"]] += sent["bytes"] / speed
  return rates(entry, times, chip.peak_flops)


def _links(chip, shape, size):
  """Of one device that an axis of so many sends over: it takes as few dimensions of the
  torus as hold it, at most two, and each that it fills may be closed to a ring."""
  first, *others = sorted(shape, reverse=True)
  spans = 2 if others and size > first else 1
  return spans * (2 if size >= first >= chip.ring_from else 1)


def _rows(config, sizes):
  """Examples of a micro-batch on one device."""
  shards = math.prod(sizes[a] for a in mesh_lib.BATCH_AXES)
  return config.batch_size / shards / config.optim.accumulation


@functools.lru_cache(maxsize=256)
def _parts(key, dtype, sizes):
  """Bytes: arguments of a device; what trains and what is frozen, whole and cut."""
  sizes = dict(sizes)
  mesh, out = _Mesh(sizes), dict(arguments=0, trains=0, frozen=0, cut=0, layers=0)
  size = jnp.dtype(dtype).itemsize
  for path, shape, trains, cast in _leaves(key):
    count = math.prod(shape)
    spec = sharding.fit(sharding.spec_for(path), shape, mesh)
    shards = math.prod(
      sizes[a] for e in spec if e for a in (e if isinstance(e, tuple) else (e,))
    )
    bytes_each = FLOAT32 if trains or not cast else size
    out["arguments"] += count * bytes_each / shards * (ADAM if trains else 1)
    out["trains" if trains else "frozen"] += count * bytes_each
    if shards > 1 and any(e and "fsdp" in e for e in spec):
      out["cut"] += count * size / sizes["tensor"]
      out["layers"] += count * size / sizes["tensor"] * path.startswith("llm/layers")
    out["trains_here"] = out.get("trains_here", 0) + trains * count * FLOAT32 / shards
  return out


def _key(config):
  """What decides the parameters: how layers are computed does not."""
  overrides = {k: v for k, v in config.model.overrides.items() if k != "llama.remat"}
  model = config.model
  own = tuple((name, getattr(model, name)) for name in OWN_FIELDS)
  return model.variant, own, json.dumps(overrides), config.trainable


@functools.lru_cache(maxsize=16)
def _leaves(key):
  """((path, shape, trains, may be cast), ...) of a model's parameters."""
  from miras_jax.config.run import ModelChoice
  from miras_jax.models.miras import init_params

  variant, own, overrides, trainable = key
  overrides = json.loads(overrides)
  cfg = ModelChoice(variant=variant, overrides=overrides, **dict(own)).build()
  shapes = jax.eval_shape(lambda: init_params(cfg, jax.random.key(0)))
  picked, frozen = trees.split_by_name(shapes, trainable)
  out = []
  for tree, trains in ((picked, True), (frozen, False)):
    for path, leaf in trees.flatten_dict(tree, sep="/").items():
      cast = path.split("/")[-1] not in trees.KEEP_FLOAT32
      out.append((path, leaf.shape, trains, cast))
  return tuple(out)


def _working(config, sizes, parts):
  """Bytes beside the arguments at the peak."""
  cfg, T, b = config.model.build(), config.data.max_len, _rows(config, sizes)
  llama, size = cfg.llama, jnp.dtype(config.model.dtype).itemsize
  kept = b * T * llama.width * size * llama.depth
  heads = (llama.num_heads + 2 * llama.num_kv_heads) * llama.head_dim
  cut = (heads + 2 * llama.mlp_width) / sizes["tensor"]
  inside = b * T * size * (cut + 3 * llama.width)  # what one layer's products leave
  kept += 2 * inside  # of the layer at work, and its gradients
  if llama.remat not in ("full", "offload"):
    kept += inside * llama.depth
  if llama.remat in ("minimal", "none") and llama.attention != "splash":
    kept += b * T * T * llama.num_heads * (FLOAT32 + size) * llama.depth
  layer = parts["layers"] / llama.depth if sizes["fsdp"] > 1 else 0
  layer = parts["cut"] / 2 if parts["kept"] else layer
  head = llama.vocab_size * llama.width * FLOAT32 / sizes["tensor"]
  sam = cfg.sam_encoder
  logits = min(MAX_LOGITS, b * sam.num_heads * sam.grid**4) * 3 * FLOAT32
  maps = b * sam.grid**2 * sam.width * (sam.mlp_ratio + 6) * size
  masks = b * config.data.max_masks * sam.grid**2 * cfg.sam_decoder.width * size
  # Those of embedding and head are added up whole, before fsdp cuts them.
  gradients = min(parts["trains"] / sizes["tensor"], parts["trains_here"] + 2 * head)
  return kept + gradients + 2 * layer + head + logits + maps + MASK_MAPS * masks


def _passes(config):
  """Of the decoder's weights in a micro-batch: forward and, by remat, backward."""
  return 3 if config.model.build().llama.remat in ("full", "offload") else 2


def _traffic(config, sizes, parts, cached):
  cfg, b = config.model.build(), _rows(config, sizes)
  llama, sam = cfg.llama, cfg.sam_encoder
  size = jnp.dtype(config.model.dtype).itemsize
  weights = (parts["frozen"] + parts["trains"]) / sizes["tensor"]
  cut = (2 * llama.width + 3 * llama.mlp_width) / sizes["tensor"]
  activations = b * config.data.max_len * (6 * llama.width + cut)
  kept = llama.remat not in ("full", "offload")  # is written, and read again
  activations *= (12 if kept else 10) * size * llama.depth
  maps = b * sam.grid**2 * sam.width * (8 + 3 * sam.mlp_ratio) * size * sam.depth
  micro = weights * _passes(config) + activations + (0 if cached else 6 * maps)
  return micro * config.optim.accumulation + 2 * parts["arguments"]


def _collectives(config, sizes, parts):
  llama, b = config.model.build().llama, _rows(config, sizes)
  size, number = jnp.dtype(config.model.dtype).itemsize, config.optim.accumulation
  out = []

  def add(kind, axis, sent):
    if sent:
      network = "dcn" if axis == "dcn_data" else "ici"
      out.append(
        {"kind": kind, "axis": axis, "network": network, "bytes": int(sent), "count": 0}
      )

  f, t = sizes["fsdp"], sizes["tensor"]
  towers = parts["cut"] - parts["layers"]
  passes, times = (1, 1) if parts["kept"] else (min(_passes(config), 2), number)
  weights = towers + parts["layers"] * passes
  add("all-gather", "fsdp", weights * times * (f - 1) / f)
  gradients = parts["trains"] / t
  for axis in ("dcn_data", "data", "fsdp"):
    n = sizes[axis]
    each = gradients / (f if axis != "fsdp" else 1)
    often = times if axis == "fsdp" else 1
    add("all-reduce", axis, 2 * each * often * (n - 1) / n)
  sums = 8 * llama.depth * b * config.data.max_len * llama.width * size * number
  add("all-reduce", "tensor", 2 * sums * (t - 1) / t)
  return out


def meshes(config, devices, slices=1):
  """MeshConfigs of powers of two over data, fsdp and tensor that the model allows."""
  heads, out = config.model.build().llama.num_kv_heads, []
  inner = devices // slices
  for tensor in (1, 2, 4, 8):
    if heads % tensor or inner % tensor:
      continue
    rest = inner // tensor
    for fsdp in 2 ** np.arange(int(math.log2(rest)) + 1):
      if rest % fsdp == 0:
        out.append(MeshConfig(
          dcn_data=slices, data=rest // int(fsdp), fsdp=int(fsdp), tensor=tensor
        ))  # fmt: skip
  return out
