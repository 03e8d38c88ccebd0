"""SAM's features on the grid of the image tokens: what stands in for other encoders.

SAM always sees the whole picture, its longer side on the canvas and the rest padding.
The other view of it is one of two (`input_pipeline.image_ops.aux_view`), and the cells
that come out here lie where its patches lie:

  letterbox    the same geometry as SAM's: the grid is laid over the whole canvas
  center_crop  the middle square of the picture: the grid is laid over that square

Each cell is the mean of SAM's features over its area, so any grid will do: a finer one
repeats what it has, a coarser one averages. "sam_only" has no second view and keeps
this meaning of `view`.

B batch, H W SAM's rows and columns, K L the grid's, C channels.
"""

import jax
import jax.numpy as jnp


def on_grid(features_BHWC, cells, *, view, valid_hw_B2, canvas) -> jax.Array:
  """[B, H, W, C] -> [B, cells, cells, C] under the view.

  view: "letterbox" or "center_crop". valid_hw_B2: rows and columns of the canvas of
  side `canvas`, in pixels, that hold the picture. Raises ValueError for another view.
  """
  side, dtype = features_BHWC.shape[1], features_BHWC.dtype
  if view == "letterbox":
    if cells == side:
      return features_BHWC
    start_B2, extent_B1 = jnp.zeros((1, 2)), jnp.full((1, 1), side)
  elif view == "center_crop":
    hw_B2 = valid_hw_B2 * (side / canvas)
    extent_B1 = hw_B2.min(1, keepdims=True)
    start_B2 = (hw_B2 - extent_B1) / 2
  else:
    raise ValueError(f"view {view!r} is not one of letterbox, center_crop")
  weights_B2KH = area_weights(start_B2, extent_B1, cells, side)
  rows_BKH, columns_BLW = weights_B2KH[:, 0], weights_B2KH[:, 1]
  x_BHWC = features_BHWC.astype(jnp.float32)
  x_BKWC = _rows(rows_BKH, x_BHWC)
  x_BKLC = _rows(columns_BLW, x_BKWC.swapaxes(1, 2)).swapaxes(1, 2)
  return x_BKLC.astype(dtype)


def area_weights(start_BA, extent_BA, count, size) -> jax.Array:
  """[B, A, count, size]: the share of each of `size` unit cells in each of `count`
  equal parts of the span from `start` on; the shares of a part within them sum to 1."""
  part_BA11 = (extent_BA / count)[..., None, None]
  low_BAK1 = start_BA[..., None, None] + part_BA11 * jnp.arange(count)[:, None]
  cell_H = jnp.arange(size)
  high = jnp.minimum(low_BAK1 + part_BA11, cell_H + 1)
  return jnp.maximum(high - jnp.maximum(low_BAK1, cell_H), 0) / part_BA11


def _rows(weights_BKH, x_BHWC):
  """Weighted sums of rows; the weights of one image (B = 1) serve all."""
  if weights_BKH.shape[0] == 1:
    return jnp.einsum("KH,BHWC->BKWC", weights_BKH[0], x_BHWC)
  return jnp.einsum("BKH,BHWC->BKWC", weights_BKH, x_BHWC)
