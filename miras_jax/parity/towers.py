"""CLIP, ConvNeXt, patch mining, projector: every tensor from pixels to image tokens.

Golden tensors have one row a conversation; we compute one an image and repeat it.
"""

import functools
import math

import jax
import numpy as np

from miras_jax.models.fusion import (
  PatchMining,
  Projector,
  cell_weights,
  grid_views,
  mining_tensors,
)
from miras_jax.parity.port import flat_captures, nchw, nhwc, on_host, run


def compare(port, table):
  clip(port, table)
  if port.cfg.convnext:
    convnext(port, table)
    mining(port, table)
  table.tensor("image_tokens", port.main["image_tokens"][port.image_B])
  if "grid_images_clip" in port.inputs and port.cfg.convnext:
    grid(port, table)


def clip(port, table):
  seen = flat_captures(port.full_clip()[1])
  names = ["pre_norm"] + [f"layer_{i:02d}" for i in range(port.cfg.clip.depth)]
  for i, name in enumerate(names):
    table.tensor(f"clip/hidden_{i}", seen[name][port.image_B])
  table.tensor("clip/patch_features", port.encoded["clip"][port.image_B])


def convnext(port, table):
  features, state = port.convnext(port.aux_images, capture=True)
  seen = flat_captures(state)
  for name in ("stem", *(f"stage_{i}" for i in range(len(port.cfg.convnext.dims)))):
    table.tensor(f"aux/{name}", nchw(seen[name])[port.image_B])
  table.tensor("aux/concat", nchw(features)[port.image_B])


def mining(port, table):
  """Through our folded form; keys and values, which it never makes, in the plain."""
  cfg, params = port.cfg.clip, port.params["mining"]
  inputs = port.encoded["clip"], port.encoded["aux"]
  module = PatchMining(cfg.width, cfg.grid, port.dtype)
  fused, state = run(module, params, *inputs, capture=True)
  seen = flat_captures(state)
  every = jax.jit(functools.partial(mining_tensors, grid=cfg.grid))
  plain = on_host(every(params, *inputs))
  weights = jax.jit(functools.partial(cell_weights, scale=module.width**-0.5))
  weights_BNP = on_host(weights(seen["key_proj"], seen["key_norm"]))
  tensors = {
    "query": seen["query_proj"],
    "key": plain["key"],
    "value": plain["value"],
    "attention": weights_BNP[:, :, None],
    "mined": seen["value_proj"],
    "fused_features": fused,
  }
  for name, value in tensors.items():
    table.tensor(f"mining/{name}", value[port.image_B])


def grid(port, table):
  """The first images shown to CLIP as crops and whole (Mini-Gemini's grid mode)."""
  views = port.inputs["grid_images_clip"]
  V = views.shape[1]
  # The golden inputs have the whole view last, its tokens come first.
  views = nhwc(np.roll(views, 1, axis=1))
  tokens = port.clip(views.reshape(-1, *views.shape[2:]))
  size = port.folder.golden("grid/target_size")
  target = None if size is None else int(size[0])
  features = port.convnext(port.aux_images, target_grid=target)[: len(views)]
  cells = on_host(jax.jit(grid_views, static_argnums=1)(features, math.isqrt(V - 1)))
  cfg = port.cfg
  fused = run(
    PatchMining(cfg.clip.width, cfg.clip.grid, port.dtype),
    port.params["mining"],
    tokens,
    cells.reshape(-1, *cells.shape[2:]),
  )
  out = run(
    Projector(cfg.llama.width, port.dtype, cfg.projector),
    port.params["projector"],
    fused,
  )
  table.tensor("grid/image_tokens", out.reshape(len(views), -1, out.shape[-1]))
