"""Earlier masks as tokens of the language model: it reads what it has marked.

Each mask has SLOT_TOKENS of them, in the decoder's width:

  inside   mean of the image tokens inside
  around   the same of a ring around the box
  look     SAM's features inside and along the border
  place    box, area and origin

All start as means of image tokens, which a decoder that has read images knows; what is
added is learnt from zero. A mask that is missing has the mean of the picture, and a
vector that says so. In float32, as small as the segmentation state is.

B batch, E earlier masks, J tokens of each, D decoder width, C SAM width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from miras_jax.config.model import SLOT_TOKENS, MirasConfig
from miras_jax.models.layers import LayerNorm, Linear
from miras_jax.models.state import encode
from miras_jax.models.state.encode import Picture

# Weight of all cells together, so that the mean of nothing is the picture's: of a small
# mask, however many cells there are, it is little.
EVERYWHERE = 1e-2


class StateTokens(nn.Module):
  """Parameters: `norm_{sam,border}`, `look`, `place`, `kinds`, `missing`, `again`."""

  cfg: MirasConfig
  view: str = "letterbox"
  dtype: Any = jnp.float32

  def setup(self):
    D, zeros = self.cfg.llama.width, nn.initializers.zeros
    self.norm_sam, self.norm_border = (LayerNorm(1e-5, self.dtype) for _ in range(2))
    self.look = Linear(D, dtype=self.dtype, kernel_init=zeros)
    self.place = Linear(D, dtype=self.dtype, kernel_init=zeros)
    self.kinds = self.param("kinds", zeros, (SLOT_TOKENS, D))
    self.missing = self.param("missing", zeros, (D,))
    self.again = Linear(self.cfg.sam_decoder.width)

  def __call__(self, masks_BEQQ, valid_BE, origin_BE, picture: Picture):
    """[B, E * SLOT_TOKENS, D]. masks: 0 to 1 inside; valid: whether there is one."""
    there_BE1 = (valid_BE > 0)[..., None]
    masks_BEQQ = jnp.where(there_BE1[..., None], masks_BEQQ, 0.0)
    box_BE4 = encode.boxes(masks_BEQQ)
    ring_BEQQ = encode.around(box_BE4, masks_BEQQ.shape[-1])
    inside_BED, around_BED = encode.means_of_tokens(
      self.cfg, masks_BEQQ, ring_BEQQ, picture, view=self.view, floor=EVERYWHERE
    )
    look_BED = self._look(masks_BEQQ, picture.sam_BHWC)
    code_BEF = encode.code(box_BE4, masks_BEQQ, origin_BE)
    place_BED = self.place(code_BEF.astype(self.dtype))
    tokens = inside_BED, around_BED, inside_BED + look_BED, inside_BED + place_BED
    tokens_BEJD = jnp.stack(tokens, axis=2) + self.kinds
    absent_BE11 = ~there_BE1[..., None]
    mean_B11D = picture.image_tokens_BND.astype(jnp.float32).mean(1)[:, None, None]
    nothing_BEJD = mean_B11D + self.kinds + self.missing
    tokens_BEJD = jnp.where(absent_BE11, nothing_BEJD, tokens_BEJD)
    B, E = valid_BE.shape
    return tokens_BEJD.reshape(B, E * SLOT_TOKENS, -1).astype(self.dtype)

  def _look(self, masks_BEQQ, sam_BHWC):
    sam_BHWC = sam_BHWC[..., : self.cfg.sam_decoder.width].astype(jnp.float32)
    side = sam_BHWC.shape[1]

    def mean(weights_BEQQ):
      return encode.weighted_mean(encode.in_cells(weights_BEQQ, side), sam_BHWC)

    inside_BEC = self.norm_sam(mean(masks_BEQQ))
    border_BEC = self.norm_border(mean(encode.border(masks_BEQQ)))
    return self.look(jnp.concatenate([inside_BEC, border_BEC], axis=-1))

  def repeat(self, tokens_BND):
    """[B, E, C]: prompts that ask for the earlier masks again, of their tokens."""
    B, _, D = tokens_BND.shape
    return self.again(tokens_BND.reshape(B, -1, SLOT_TOKENS, D).mean(2))
