"""[SEG] hidden state -> mask prompt, with the optional [OBJ]..[SEG] alignment.

B batch, T tokens, M masks, D decoder width, C prompt width, N heads, H head width.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from miras_jax.config.model import SegPromptConfig
from miras_jax.models.attention import attend
from miras_jax.models.layers import Linear


def state_index(pos_BM, seg_state):
  """Index of the state read for a token at `pos_BM`: the one before it under "predict"
  (the state that predicts the token, as published), its own under "at"."""
  return pos_BM - 1 if seg_state == "predict" else pos_BM


def select_states(hidden_BTD, seg_pos_BM, seg_valid_BM, *, seg_state):
  """The hidden state of each [SEG], [B, M, D]; zeros in slots that are not valid."""
  last = hidden_BTD.shape[1] - 1
  index_BM = jnp.clip(state_index(seg_pos_BM, seg_state), 0, last)
  states_BMD = jnp.take_along_axis(hidden_BTD, index_BM[..., None], axis=1)
  return jnp.where(seg_valid_BM[..., None] > 0, states_BMD, 0)


def span_mask(seg_pos_BM, obj_pos_BM, length, *, seg_state):
  """[B, M, T] bool: the states from [OBJ]'s up to, not including, [SEG]'s.

  Empty where there is no [OBJ] (-1) or it does not precede its [SEG].
  """
  t_T = jnp.arange(length)
  start_BM1 = state_index(obj_pos_BM, seg_state)[..., None]
  stop_BM1 = state_index(seg_pos_BM, seg_state)[..., None]
  return (obj_pos_BM[..., None] >= 0) & (t_T >= start_BM1) & (t_T < stop_BM1)


# As loud as SAM's own prompt embeddings are: from random weights, a mask decoder takes
# far longer to notice a quiet prompt among its six tokens.
LOUD = nn.initializers.variance_scaling(16.0, "fan_in", "truncated_normal")


class Alignment(nn.Module):
  """Semantic region alignment: [SEG] attends over its [OBJ]..[SEG] span, then Linear.

  Always float32, as the reference. Parameters: `{q,k,v,out}_proj`, `linear`.
  """

  cfg: SegPromptConfig

  @nn.compact
  def __call__(self, seg_BMC, states_BTC, span_BMT):
    width, num_heads = self.cfg.out_width, self.cfg.num_heads

    def heads(x, name):
      y = Linear(width, name=name)(x)
      return y.reshape(*y.shape[:2], num_heads, width // num_heads)

    q_BMNH = heads(seg_BMC, "q_proj")
    k_BTNH, v_BTNH = heads(states_BTC, "k_proj"), heads(states_BTC, "v_proj")
    out_BMNH = attend(q_BMNH, k_BTNH, v_BTNH, mask=span_BMT[:, None])
    out_BMC = Linear(width, name="out_proj")(out_BMNH.reshape(seg_BMC.shape))
    init = nn.initializers.zeros if self.cfg.alignment == "residual" else LOUD
    return Linear(width, name="linear", kernel_init=init)(out_BMC)


class SegPrompt(nn.Module):
  """Projects [SEG] states to mask prompts.

  Parameters: `text_fc1`, `text_fc2` and, unless `cfg.alignment` is "none", `align/...`.
  """

  cfg: SegPromptConfig
  in_width: int
  dtype: Any = jnp.float32

  def setup(self):
    self.text_fc1 = Linear(self.in_width, dtype=self.dtype)
    # Loud where the prompt leaves the module, and only there: loud keys would saturate
    # the alignment's softmax from the start.
    last = self.cfg.alignment != "published"
    init = {"kernel_init": LOUD} if last else {}
    self.text_fc2 = Linear(self.cfg.out_width, dtype=self.dtype, **init)
    if self.cfg.alignment != "none":
      self.align = Alignment(self.cfg)

  def project(self, states):
    """Linear, ReLU, Linear: [..., D] -> [..., C]."""
    return self.text_fc2(nn.relu(self.text_fc1(states)))

  def __call__(self, hidden_BTD, seg_pos_BM, obj_pos_BM, seg_valid_BM):
    """Prompts [B, M, C], zeros in slots that are not valid.

    Positions are those of the [SEG] and [OBJ] tokens themselves; `obj_pos` -1 means no
    [OBJ], and the plain [SEG] prompt stays.
    """
    seg_state = self.cfg.seg_state
    if self.cfg.alignment == "none":
      states_BMD = select_states(
        hidden_BTD, seg_pos_BM, seg_valid_BM, seg_state=seg_state
      )
      prompt_BMC = self.project(states_BMD)
    else:
      # A span can be anywhere and of any length, so every state is projected: 0.1 % of
      # a decoder's cost, and nothing is ever cut off.
      states_BTC = self.project(hidden_BTD)
      prompt_BMC = self._aligned(states_BTC, seg_pos_BM, obj_pos_BM, seg_valid_BM)
    return jnp.where(seg_valid_BM[..., None] > 0, prompt_BMC, 0)

  def of_words(self, words_BTD, seg_pos_BM, span_BMT, seg_valid_BM):
    """Prompts [B, M, C] of the words in `span` alone, whatever their order: [SEG]'s own
    embedding attends over them, or their mean where there is no alignment."""
    words_BTC = self.project(words_BTD)
    if self.cfg.alignment == "none":
      weights_BMT = span_BMT / jnp.maximum(span_BMT.sum(-1, keepdims=True), 1)
      prompt_BMC = jnp.einsum("BMT,BTC->BMC", weights_BMT, words_BTC)
    else:
      seg_BMC = select_states(words_BTC, seg_pos_BM, seg_valid_BM, seg_state="at")
      prompt_BMC = self._attended(seg_BMC, words_BTC, span_BMT)
    return jnp.where(seg_valid_BM[..., None] > 0, prompt_BMC, 0)

  def _aligned(self, states_BTC, seg_pos_BM, obj_pos_BM, seg_valid_BM):
    seg_state = self.cfg.seg_state
    seg_BMC = select_states(states_BTC, seg_pos_BM, seg_valid_BM, seg_state=seg_state)
    span_BMT = span_mask(
      seg_pos_BM, obj_pos_BM, states_BTC.shape[1], seg_state=seg_state
    )
    return self._attended(seg_BMC, states_BTC, span_BMT)

  def _attended(self, seg_BMC, states_BTC, span_BMT):
    out_BMC = self.align(seg_BMC, states_BTC, span_BMT).astype(self.dtype)
    # differs from reference: the published form has no residual.
    if self.cfg.alignment == "residual":
      out_BMC = seg_BMC + out_BMC
    return jnp.where(span_BMT.any(-1, keepdims=True), out_BMC, seg_BMC)
