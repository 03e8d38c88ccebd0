"""Both towers become the language model's image tokens: patch mining and projector.

B batch, N patches, P high-resolution cells under one patch, D token width, C channels
of the feature map.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miras_jax.models.layers import LayerNorm, Linear, exact_gelu, resize_bilinear

NORM_EPS = 1e-5


def group_cells(x_BHWC, grid):
  """[B, H, W, C] -> [B, N, P, C]: the P cells under each of N = grid * grid patches.

  Raises ValueError when the feature map does not divide into `grid`.
  """
  B, H, W, C = x_BHWC.shape
  if H % grid or W % grid:
    raise ValueError(f"feature map {H}x{W} does not divide into {grid=}")
  x = x_BHWC.reshape(B, grid, H // grid, grid, W // grid, C)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, grid * grid, -1, C)


def grid_views(features_BHWC, image_grid) -> jax.Array:
  """[B, H, W, C] -> [B, 1 + g * g, H / g, W / g, C] for g = `image_grid`.

  The whole map made smaller, then its g x g crops row by row: what the tokens of a
  global view and of g x g crops mine when one image is shown to CLIP in parts.
  """
  B, H, W, C = features_BHWC.shape
  size = H // image_grid, W // image_grid
  crops = group_cells(features_BHWC, image_grid).reshape(B, -1, *size, C)
  whole = resize_bilinear(features_BHWC, *size)
  return jnp.concatenate([whole[:, None], crops], axis=1)


def cell_weights(query_BNC, key_BNPC, *, scale) -> jax.Array:
  """[B, N, P] float32: how much each patch attends to the cells under it."""
  logits_BNP = jnp.einsum(
    "BNC,BNPC->BNP", query_BNC, key_BNPC, preferred_element_type=jnp.float32
  )
  return jax.nn.softmax(logits_BNP * scale)


def mine_patches(query_BNC, key_BNPC, value_BNPC, *, scale):
  """Each low-resolution token attends to the cells under its own patch."""
  weights_BNP = cell_weights(query_BNC, key_BNPC, scale=scale)
  return jnp.einsum("BNP,BNPC->BNC", weights_BNP.astype(value_BNPC.dtype), value_BNPC)


class FoldedKey(nn.Module):
  """Queries at the cells' width: q . (x @ kernel + b) = (q @ kernel.T) . x + q . b.

  q . b is the same for all cells of a patch, so softmax cancels it: the parameter
  `bias [D]` is kept for published weights only. `kernel [C, D]`.
  """

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, query_BND):
    shape = (self.channels, query_BND.shape[-1])
    kernel_CD = self.param("kernel", nn.initializers.lecun_normal(), shape)
    self.param("bias", nn.initializers.zeros, shape[1:])
    return jnp.einsum("BND,CD->BNC", query_BND, kernel_CD.astype(self.dtype))


class PatchMining(nn.Module):
  """Tokens [B, N, D] + what each mines from the features under its patch (2403.18814).

  Parameters: `{query,key,value}_norm`, `{query,key,value}_proj`. The projections of
  keys and values are moved from the P cells to the one query and the one result of a
  patch: equal to the published form (`mining_tensors`), 50 times cheaper at full size.
  """

  width: int
  grid: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens_BND, features_BHWC):
    cells_BNPC = group_cells(features_BHWC, self.grid)
    channels = features_BHWC.shape[-1]
    query_BND = self._norm("query_norm")(tokens_BND)
    query_BND = Linear(self.width, dtype=self.dtype, name="query_proj")(query_BND)
    mined_BNC = mine_patches(
      FoldedKey(channels, self.dtype, name="key_proj")(query_BND),
      self._norm("key_norm")(cells_BNPC),
      self._norm("value_norm")(cells_BNPC),
      scale=self.width**-0.5,
    )
    mined_BND = Linear(self.width, dtype=self.dtype, name="value_proj")(mined_BNC)
    return tokens_BND + mined_BND

  def _norm(self, name):
    return LayerNorm(NORM_EPS, self.dtype, name=name)


def mining_tensors(params, tokens_BND, features_BHWC, *, grid):
  """The published form of patch mining, tensor by tensor, in float32, for parity.

  `params` is PatchMining's own tree. Returns a dict: `query [B, N, D]`, `key`, `value`
  `[B, N, P, D]`, `attention [B, N, P]`, `mined`, `fused_features` `[B, N, D]`.
  """

  def project(name, x):
    x = LayerNorm(NORM_EPS).apply({"params": params[f"{name}_norm"]}, x)
    proj = params[f"{name}_proj"]
    return x @ proj["kernel"] + proj["bias"]

  cells_BNPC = group_cells(features_BHWC, grid)
  query, key = project("query", tokens_BND), project("key", cells_BNPC)
  value, scale = project("value", cells_BNPC), query.shape[-1] ** -0.5
  mined = mine_patches(query, key, value, scale=scale)
  return {
    "query": query,
    "key": key,
    "value": value,
    "attention": cell_weights(query, key, scale=scale),
    "mined": mined,
    "fused_features": tokens_BND + mined,
  }


class Projector(nn.Module):
  """Tokens [B, N, D] to the language model's width.

  Parameters: `fc1`, `fc2` of `mlp2x_gelu`; `linear` of the kind of that name.
  """

  width_out: int
  dtype: Any = jnp.float32
  kind: str = "mlp2x_gelu"

  @nn.compact
  def __call__(self, x_BND):
    if self.kind == "linear":
      return Linear(self.width_out, dtype=self.dtype, name="linear")(x_BND)
    h = exact_gelu(Linear(self.width_out, dtype=self.dtype, name="fc1")(x_BND))
    return Linear(self.width_out, dtype=self.dtype, name="fc2")(h)
