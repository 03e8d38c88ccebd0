"""Features finer than SAM's grid, for crisp masks: one part of `sam_features`.

The mask decoder makes masks of four times the grid out of the grid alone, so what is
smaller than a patch is guessed. As in SAM 2 (arXiv 2408.00714, section 4: skip
connections past the decoder's attention), features of an early layer are added where it
scales up. Ours come from two small layers on the pixels, since SAM's ViT has no early
layer that is finer than a patch; both start at zero, so that a model to which they are
added says what it said before.

B images, H W feature rows and columns, C the decoder's width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from miras_jax.config.model import SamEncoderConfig
from miras_jax.models.layers import Linear, exact_gelu

# Factor over the grid: channels of the features there, as a part of C.
SCALES = {2: 4, 4: 8}


class FineFeatures(nn.Module):
  """Normalised image_BHWC -> [B, H, W, 3 C]: what lies in each cell, as channels.

  `split` takes it apart again.
  """

  cfg: SamEncoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image_BHWC):
    cfg, dtype = self.cfg, self.dtype
    C = cfg.out_width

    def layer(name, x, features):
      return exact_gelu(Linear(features, dtype=dtype, name=name)(x))

    def zero(name, x, part):
      init = nn.initializers.zeros
      return Linear(C // part, dtype=dtype, kernel_init=init, name=name)(x)

    pixels = neighbours(into_cells(image_BHWC, cfg.patch_size // 4))
    x = layer("conv4", pixels, C // 4)
    y = layer("conv2", into_cells(x, 2), C // 2)
    found = {2: zero("to2", y, SCALES[2]), 4: zero("to4", x, SCALES[4])}
    return jnp.concatenate([into_cells(found[k], k) for k in SCALES], axis=-1)


def split(features_BHWC, width):
  """(SAM's own features [B, H, W, C], {factor: [B, factor H, factor W, C / part]}).

  features_BHWC: of C = `width` channels, or with those of `FineFeatures` behind them.
  The dict is empty where there are none.
  """
  own, rest = features_BHWC[..., :width], features_BHWC[..., width:]
  found = {}
  for factor, part in SCALES.items() if rest.shape[-1] else ():
    channels = factor**2 * width // part
    found[factor] = out_of_cells(rest[..., :channels], factor)
    rest = rest[..., channels:]
  return own, found


def into_cells(x_BHWC, factor):
  """[B, k H, k W, C] -> [B, H, W, k k C]."""
  B, H, W, C = x_BHWC.shape
  x = x_BHWC.reshape(B, H // factor, factor, W // factor, factor, C)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H // factor, W // factor, -1)


def out_of_cells(x_BHWC, factor):
  """[B, H, W, k k C] -> [B, k H, k W, C]."""
  B, H, W, C = x_BHWC.shape
  x = x_BHWC.reshape(B, H, W, factor, factor, C // factor**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H * factor, W * factor, -1)


def neighbours(x_BHWC):
  """[B, H, W, C] -> [B, H, W, 9 C]: each cell and those around it, zeros outside.

  With a `Linear` after it this is a 3 x 3 convolution as one matrix product, which
  XLA:CPU differentiates several times faster than its own.
  """
  H, W = x_BHWC.shape[1:3]
  x = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [x[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
  return jnp.concatenate(shifted, axis=-1)
