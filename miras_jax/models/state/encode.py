"""What a model keeps of an earlier mask: one vector, from features that it has anyway.

B batch, E earlier masks, Q side of a mask, N image tokens, K their grid, G SAM's grid,
D decoder width, C SAM width, F features of a box.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.slots.fill import ORIGINS, most_own
from miras_jax.config.model import MirasConfig
from miras_jax.models.layers import LayerNorm, Linear
from miras_jax.models.sam_grid import on_grid

OCTAVES = 6  # of the code of a corner: the finest is a 64th of the canvas
MARGIN = 0.25  # of a box's sides, of the ring around it
EPS = 1e-6


class Slots(NamedTuple):
  """Earlier masks. masks_BEQQ: 0 to 1 inside. origin_BE: indices in ORIGINS. seen_BME:
  which of them each new mask may look at. pick_B: the one that it has to, -1: none."""

  masks_BEQQ: jax.Array
  origin_BE: jax.Array
  seen_BME: jax.Array
  pick_B: jax.Array


class Picture(NamedTuple):
  """What is known of the picture. valid_hw_B2: None where the view does not need it."""

  image_tokens_BND: jax.Array
  sam_BHWC: jax.Array
  valid_hw_B2: jax.Array | None


class SlotEncoder(nn.Module):
  """Slots and their picture -> [B, E, C].

  Means of image tokens inside the mask and in a ring around its box, of SAM's features
  inside and along the border, and the code of its box, area and origin. Parameters:
  `norm_{inside,around,sam,border}`, `fc1`, `fc2`.
  """

  cfg: MirasConfig
  view: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, slots: Slots, picture: Picture):
    C = self.cfg.sam_decoder.width
    masks_BEQQ = slots.masks_BEQQ
    box_BE4 = boxes(masks_BEQQ)
    ring_BEQQ = around(box_BE4, masks_BEQQ.shape[-1])
    inside_BED, ring_BED = means_of_tokens(
      self.cfg, masks_BEQQ, ring_BEQQ, picture, view=self.view
    )
    sam_BHWC = picture.sam_BHWC[..., :C].astype(jnp.float32)
    side = sam_BHWC.shape[1]
    parts = {
      "inside": inside_BED,
      "around": ring_BED,
      "sam": weighted_mean(in_cells(masks_BEQQ, side), sam_BHWC),
      "border": weighted_mean(in_cells(border(masks_BEQQ), side), sam_BHWC),
    }
    parts = [
      LayerNorm(1e-5, self.dtype, name=f"norm_{name}")(x) for name, x in parts.items()
    ]
    code_BEF = code(box_BE4, masks_BEQQ, slots.origin_BE)
    x = jnp.concatenate([*parts, code_BEF.astype(self.dtype)], axis=-1)
    x = nn.relu(Linear(2 * C, dtype=self.dtype, name="fc1")(x))
    return Linear(C, dtype=self.dtype, name="fc2")(x)


def means_of_tokens(cfg, masks_BEQQ, ring_BEQQ, picture, *, view, floor=0.0):
  """Means of image tokens inside and around, [B, E, D] each.

  floor: weight of all cells together beside their own; each has an equal part.
  """
  E, tokens_BND = masks_BEQQ.shape[1], picture.image_tokens_BND.astype(jnp.float32)
  both = jnp.concatenate([masks_BEQQ, ring_BEQQ], axis=1)
  both_BKKE = on_grid(
    both.transpose(0, 2, 3, 1),
    cfg.image_grid,
    view=view,
    valid_hw_B2=picture.valid_hw_B2,
    canvas=cfg.sam_encoder.image_size,
  )
  weights_BEKK = both_BKKE.transpose(0, 3, 1, 2) + floor / cfg.image_grid**2
  grid = (len(tokens_BND), cfg.image_grid, cfg.image_grid, -1)
  mean_BED = weighted_mean(weights_BEKK, tokens_BND.reshape(grid))
  return mean_BED[:, :E], mean_BED[:, E:]


def weighted_mean(weights_BEHW, x_BHWC) -> jax.Array:
  """[B, E, C]; zeros where nothing has a weight."""
  total_BE1 = weights_BEHW.sum((2, 3))[..., None]
  return jnp.einsum("BEHW,BHWC->BEC", weights_BEHW, x_BHWC) / (total_BE1 + EPS)


def in_cells(masks_BEQQ, side) -> jax.Array:
  """[B, E, side, side]: how much of each cell is inside."""
  B, E, Q, _ = masks_BEQQ.shape
  return masks_BEQQ.reshape(B, E, side, Q // side, side, Q // side).mean((3, 5))


def border(masks_BEQQ) -> jax.Array:
  """What lies between a mask grown and shrunk by a cell."""
  x = masks_BEQQ[..., None].reshape(-1, *masks_BEQQ.shape[2:], 1)
  grown, shrunk = (s * nn.max_pool(s * x, (3, 3), padding="SAME") for s in (1, -1))
  return (grown - shrunk).reshape(masks_BEQQ.shape)


def boxes(masks_BEQQ) -> jax.Array:
  """[B, E, 4]: x0 y0 x1 y1 as shares of the canvas; zeros of an empty mask."""
  inside = masks_BEQQ > 0.5
  ends = []
  for axis in (2, 3):  # any row: columns of it, any column: rows
    hit_BEQ = inside.any(axis)
    Q = hit_BEQ.shape[-1]
    first = jnp.argmax(hit_BEQ, axis=-1) / Q
    last = 1 - jnp.argmax(hit_BEQ[..., ::-1], axis=-1) / Q
    ends.append((first, last))
  (x0, x1), (y0, y1) = ends
  full_BE1 = inside.any((2, 3))[..., None]
  return jnp.where(full_BE1, jnp.stack([x0, y0, x1, y1], axis=-1), 0.0)


def around(box_BE4, side) -> jax.Array:
  """[B, E, side, side] 0/1: the cells in a box made larger, but not in it."""
  at = (jnp.arange(side) + 0.5) / side
  margin_BE2 = MARGIN * (box_BE4[..., 2:] - box_BE4[..., :2]) + 1 / side

  def inside(box_BE4):
    x0, y0, x1, y1 = (box_BE4[..., i, None] for i in range(4))
    columns, rows = (at > x0) & (at < x1), (at > y0) & (at < y1)
    return rows[..., :, None] & columns[..., None, :]

  corners = box_BE4[..., :2] - margin_BE2, box_BE4[..., 2:] + margin_BE2
  wide = jnp.concatenate(corners, axis=-1)
  full = (box_BE4[..., 2:] > box_BE4[..., :2]).all(-1)[..., None, None]
  return (inside(wide) & ~inside(box_BE4) & full).astype(jnp.float32)


def code(box_BE4, masks_BEQQ, origin_BE) -> jax.Array:
  """[B, E, F]: sines and cosines of the corners, logarithm of the area, origin."""
  angle = math.pi * box_BE4[..., None] * 2.0 ** jnp.arange(OCTAVES)
  angle = angle.reshape(*box_BE4.shape[:2], -1)
  area_BE1 = jnp.log(masks_BEQQ.mean((2, 3)) + 1e-4)[..., None]
  origin = jax.nn.one_hot(origin_BE, len(ORIGINS))
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle), area_BE1, origin], axis=-1)


def own_masks(own_BE):
  """(the [SEG]s [B, K] whose masks slots hold, which of them each slot has [B, E]).

  own_BE: `slot_own`; where it is -1 both are any. K: `most_own` of a row.
  """
  is_own_BE = own_BE >= 0
  K = most_own(own_BE.shape[1])
  first_BK = jnp.argsort(~is_own_BE, axis=1)[:, :K]  # stable: own ones come first
  asked_BK = jnp.maximum(jnp.take_along_axis(own_BE, first_BK, axis=1), 0)
  return asked_BK, jnp.clip(jnp.cumsum(is_own_BE, axis=1) - 1, 0, K - 1)
