"""The decoder: one implementation whose LlamaConfig says which features it has.

Which family has which is in config/families/.

B batch, T tokens, S keys, D width, F mlp width, N query heads, K key heads, H head
width, L layers, V vocabulary.

Parameters: `embed/embedding [V, D]`, `layers/...` (layer axis first),
`final_norm/scale` and, unless embeddings are tied, `lm_head/kernel [D, V]`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from miras_jax.config.model import LlamaConfig
from miras_jax.models import attention
from miras_jax.models.layers import Linear, RmsNorm, product

init_cache = attention.init_cache
BLOCK_INPUT = "block_input"
PROJECTIONS = (
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
)


class Context(NamedTuple):
  """What every layer reads: rotary table, mask, first cache slot to write or None.

  `segments_BT` says the same as the mask, for attention without a T x T array. only_B:
  the one token of each row whose output is wanted, where it is not that of all.
  """

  cos_BTF: jax.Array
  sin_BTF: jax.Array
  mask_BTS: jax.Array
  write_index_B: jax.Array | None = None
  segments_BT: jax.Array | None = None
  only_B: jax.Array | None = None

  def wanted(self, x_BT):
    """An array of all T tokens -> of those whose output is wanted."""
    if self.only_B is None:
      return x_BT
    at = self.only_B.reshape(-1, *[1] * (x_BT.ndim - 1))
    return jnp.take_along_axis(x_BT, at, axis=1)


def _projection(cfg, dtype, name, features, *, use_bias=False):
  rank = cfg.lora_rank if name in cfg.lora_targets else 0
  return Linear(
    features,
    use_bias=use_bias,
    dtype=dtype,
    lora_rank=rank,
    lora_alpha=cfg.lora_alpha,
    lora_dropout=cfg.lora_dropout,
    name=name,
  )


def _norm(cfg, dtype, name=None):
  return RmsNorm(cfg.norm_eps, dtype, cfg.norm_offset, name=name)


def _gate(cfg, x):
  """The activation of the mlp's gate; `nn.gelu` is the tanh form by default."""
  return {"silu": nn.silu, "gelu_tanh": nn.gelu}[cfg.activation](x)


class Attention(nn.Module):
  """Grouped-query attention with rotary positions, over the cache when one is given."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD, cache, layer, context, deterministic):
    cfg = self.cfg

    def heads(name, x_BTD, num_heads):
      linear = _projection(
        cfg, self.dtype, name, num_heads * cfg.head_dim, use_bias=cfg.qkv_bias
      )
      y = linear(x_BTD, deterministic=deterministic)
      return y.reshape(*x_BTD.shape[:2], num_heads, cfg.head_dim)

    # Kept keys are rotated; else a kernel rotates as it reads.
    later = cache is None and self._implementation() == "splash"

    def rotated(letter, x_BTD, num_heads, *table):
      x_BTNH = heads(f"{letter}_proj", x_BTD, num_heads)
      if cfg.qk_norm:
        x_BTNH = _norm(cfg, self.dtype, f"{letter}_norm")(x_BTNH)
      return x_BTNH if later else attention.rope(x_BTNH, *table)

    table = context.cos_BTF, context.sin_BTF
    wanted = [context.wanted(x) for x in (x_BTD, *table)]
    q_BTNH = rotated("q", wanted[0], cfg.num_heads, *wanted[1:])
    k_BTKH = rotated("k", x_BTD, cfg.num_kv_heads, *table)
    v_BTKH = heads("v_proj", x_BTD, cfg.num_kv_heads)
    rotary = table if later else None
    out_BTNH, cache = self._attend(
      q_BTNH, k_BTKH, v_BTKH, cache, layer, context, rotary
    )
    out_BTD = _projection(cfg, self.dtype, "o_proj", cfg.width)(
      out_BTNH.reshape(*out_BTNH.shape[:2], -1), deterministic=deterministic
    )
    return out_BTD, cache

  def _implementation(self):
    # Shapes and parameters are the same in init, whose one row no mesh divides.
    return "xla" if self.is_initializing() else self.cfg.attention

  def _attend(self, q_BTNH, k_BTKH, v_BTKH, cache, layer, context, rotary):
    """(what the queries find, the cache with the new keys)."""
    mask_BTS, T = context.wanted(context.mask_BTS), k_BTKH.shape[1]
    fresh = mask_BTS.shape[-1] == T  # nobody looks into the cache
    if cache is not None:
      cache = attention.write_cache(
        cache, layer, k_BTKH, v_BTKH, context.write_index_B, fresh=fresh
      )
    if cache is not None and not fresh:
      k_BKSH, v_BKSH = cache.k_LBKSH[layer], cache.v_LBKSH[layer]
      out_BTNH = attention.attend_heads_first(
        q_BTNH, k_BKSH.astype(self.dtype), v_BKSH.astype(self.dtype), mask_BTS[:, None]
      )
      return out_BTNH, cache
    plain = q_BTNH.shape[1] != T  # the others want as many queries as keys
    out_BTNH = attention.attend(
      q_BTNH,
      k_BTKH,
      v_BTKH,
      mask=mask_BTS[:, None],
      segments_BT=context.segments_BT,
      rotary=rotary,
      implementation="xla" if plain else self._implementation(),
    )
    return out_BTNH, cache


class Mlp(nn.Module):
  """`down(activation(gate(x)) * up(x))`."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD, deterministic):
    def project(x, name, features):
      linear = _projection(self.cfg, self.dtype, name, features)
      return linear(x, deterministic=deterministic)

    gate_BTF = _gate(self.cfg, project(x_BTD, "gate_proj", self.cfg.mlp_width))
    up_BTF = project(x_BTD, "up_proj", self.cfg.mlp_width)
    return project(gate_BTF * up_BTF, "down_proj", self.cfg.width)


class Block(nn.Module):
  """One pre-norm layer, in the form nn.scan wants: carry in, carry and None out."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, carry, layer, context, deterministic):
    x_BTD, cache = carry
    x_BTD = checkpoint_name(x_BTD, BLOCK_INPUT)
    h_BTD = _norm(self.cfg, self.dtype, "input_norm")(x_BTD)
    h_BTD, cache = Attention(self.cfg, self.dtype, name="attn")(
      h_BTD, cache, layer, context, deterministic
    )
    x_BTD = context.wanted(x_BTD) + h_BTD
    h_BTD = _norm(self.cfg, self.dtype, "post_attn_norm")(x_BTD)
    x_BTD = x_BTD + Mlp(self.cfg, self.dtype, name="mlp")(h_BTD, deterministic)
    return (x_BTD, cache), None


def remat_policy(name):
  """The jax.checkpoint policy of a `LlamaConfig.remat` name other than "none".

  minimal  keeps every matrix product: least to compute again, most memory.
  dots     keeps the projections, computes attention again.
  full     keeps each layer's input only.
  offload  as full, with those inputs in the host's memory.
  """
  policies = jax.checkpoint_policies
  if name == "offload":
    return policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[BLOCK_INPUT],
      offload_src="device",
      offload_dst="pinned_host",
    )
  return {
    "minimal": policies.dots_saveable,
    "dots": policies.dots_with_no_batch_dims_saveable,
    "full": policies.nothing_saveable,
  }[name]


def _scanned_block(cfg):
  """Block under nn.scan, rematerialised as `cfg.remat` says."""
  block = Block
  if cfg.remat != "none":
    # Argument 4 is `deterministic`, counted with self. The scan already keeps XLA from
    # merging the recomputation with the forward pass, hence prevent_cse=False.
    block = nn.remat(
      Block, policy=remat_policy(cfg.remat), prevent_cse=False, static_argnums=(4,)
    )
  return nn.scan(
    block,
    variable_axes={"params": 0, "intermediates": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast, nn.broadcast),
    length=cfg.depth,
    unroll=cfg.scan_unroll,
  )


class Embed(nn.Module):
  """The token table: rows by id, and logits against it for tied models."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  def setup(self):
    self.embedding = self.param(
      "embedding", nn.initializers.normal(0.02), (self.cfg.vocab_size, self.cfg.width)
    )

  def __call__(self, tokens_BT):
    x_BTD = jnp.take(self.embedding, tokens_BT, axis=0).astype(self.dtype)
    if self.cfg.embed_scale:  # rounded to the dtype, as published
      x_BTD = x_BTD * jnp.asarray(self.cfg.width**0.5, self.dtype)
    return x_BTD

  def attend(self, x_BTD):
    """Float32 logits of each token."""
    x_ND = x_BTD.astype(self.dtype).reshape(-1, x_BTD.shape[-1])
    table_DV = self.embedding.T.astype(self.dtype)
    logits_NV = jnp.matmul(x_ND, table_DV, preferred_element_type=jnp.float32)
    return logits_NV.reshape(*x_BTD.shape[:-1], -1)


class Head(nn.Module):
  """Output projection without bias; float32 logits."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD):
    kernel_DV = self.param(
      "kernel", nn.initializers.lecun_normal(), (self.cfg.width, self.cfg.vocab_size)
    )
    x_ND = x_BTD.astype(self.dtype).reshape(-1, x_BTD.shape[-1])
    logits_NV = product(self, x_ND, kernel_DV, self.dtype, jnp.float32)
    return logits_NV.reshape(*x_BTD.shape[:-1], -1)


class Llama(nn.Module):
  """Decoder over embeddings: `embed`, `__call__` or `extend`, then `logits`."""

  cfg: LlamaConfig
  dtype: Any = jnp.float32

  def setup(self):
    unknown = sorted(set(self.cfg.lora_targets) - set(PROJECTIONS))
    if unknown:
      raise ValueError(f"lora_targets {unknown} are not in {PROJECTIONS}")
    self.embedder = Embed(self.cfg, self.dtype, name="embed")
    if self.cfg.stacked:
      self.layers = _scanned_block(self.cfg)(self.cfg, self.dtype)
    else:
      self.layer = [Block(self.cfg, self.dtype) for _ in range(self.cfg.depth)]
    self.final_norm = _norm(self.cfg, self.dtype)
    if not self.cfg.tie_embeddings:
      self.lm_head = Head(self.cfg, self.dtype)

  def embed(self, tokens_BT):
    """Token embeddings [B, T, D]; an id outside the vocabulary gives NaN."""
    return self.embedder(tokens_BT)

  def words(self, tokens_BT):
    """Token embeddings as the last layer would leave them, if no layer added to them:
    [B, T, D]."""
    return self.final_norm(self.embed(tokens_BT))

  def __call__(
    self, x_BTD, positions_BT, mask_BTS, *, segments_BT=None, deterministic=True
  ):
    """Final-normed hidden states [B, T, D] of a whole sequence.

    `mask_BTS`: bool, True where a query sees a key (`attention.segment_mask`);
    `segments_BT`: what it was made of, for `attention="splash"`.
    `deterministic=False` turns LoRA dropout on and needs a "dropout" rng.
    """
    context = self._context(positions_BT, mask_BTS)
    context = context._replace(segments_BT=segments_BT)
    hidden_BTD, _ = self._run(x_BTD, None, context, deterministic)
    if self.is_initializing():  # so that init makes every parameter
      self.embed(jnp.zeros((1, 1), jnp.int32))
      self.logits(hidden_BTD)
    return hidden_BTD

  def logits(self, hidden_BTD):
    """Float32 logits [B, T, V] of final-normed hidden states."""
    if self.cfg.tie_embeddings:
      return self.embedder.attend(hidden_BTD)
    return self.lm_head(hidden_BTD)

  def extend(self, x_BTD, positions_BT, cache, write_index_B, mask_BTS, only_B=None):
    """Runs T new tokens against the cache; returns (hidden_BTD, cache).

    only_B: of the hidden states only those of one token a row, [B, 1, D]: the last
    layer then computes the keys of all and the rest of that one.

    Row b writes its keys at slots `write_index_B[b]...`; `mask_BTS` is over the S slots
    of the cache, the new ones included (`attention.cache_mask`), or over the T new
    tokens alone (`attention.segment_mask` of ones), where all rows begin at slot 0:
    nothing reads the empty cache then. T is the prompt length in prefill and 1 in
    decoding; shapes are static.
    """
    context = self._context(positions_BT, mask_BTS, write_index_B)
    context = context._replace(segments_BT=jnp.ones_like(positions_BT), only_B=only_B)
    return self._run(x_BTD, cache, context, True)

  def _context(self, positions_BT, mask_BTS, write_index_B=None):
    cfg = self.cfg
    cos_BTF, sin_BTF = attention.rope_table(
      positions_BT, cfg.head_dim, theta=cfg.rope_theta, scaling=cfg.rope_scaling
    )
    return Context(cos_BTF, sin_BTF, mask_BTS, write_index_B)

  def _run(self, x_BTD, cache, context, deterministic):
    if not self.cfg.stacked:
      return self._run_apart(x_BTD, cache, context, deterministic)
    # The cache is carried, not scanned over, so that a token updates it in place.
    carry = x_BTD.astype(self.dtype), cache
    layers_L, every = jnp.arange(self.cfg.depth), context._replace(only_B=None)
    (x_BTD, cache), _ = self.layers(carry, layers_L, every, deterministic)
    return self.final_norm(context.wanted(x_BTD)), cache

  def _run_apart(self, x_BTD, caches, context, deterministic):
    """The layers one after the other, each with a cache of one layer."""
    x_BTD, new, last = x_BTD.astype(self.dtype), [], len(self.layer) - 1
    for i, (block, cache) in enumerate(
      zip(self.layer, caches or [None] * len(self.layer), strict=True)
    ):
      found = context if i == last else context._replace(only_B=None)
      (x_BTD, cache), _ = block((x_BTD, cache), 0, found, deterministic)
      new.append(cache)
    return self.final_norm(x_BTD), tuple(new) if caches else None


def merge_lora(params, cfg):
  """Returns `params` with every adapter added into its kernel and removed.

  Works on any nested dict that holds `Linear` leaves, stacked or not, numpy or jax;
  `cfg` is the LlamaConfig they were made with. Apply the result with `lora_rank=0`.
  """
  if not isinstance(params, dict):
    return params
  if "lora_a" not in params:
    return {name: merge_lora(value, cfg) for name, value in params.items()}
  a, b = params["lora_a"], params["lora_b"]
  if a.shape[-1] != cfg.lora_rank:
    raise ValueError(f"adapter of rank {a.shape[-1]} under {cfg.lora_rank=}")
  kernel = params["kernel"]
  delta = a.astype(jnp.float32) @ b.astype(jnp.float32)
  delta = delta * (cfg.lora_alpha / cfg.lora_rank)
  merged = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
  rest = {k: v for k, v in params.items() if k not in ("lora_a", "lora_b", "kernel")}
  return {"kernel": merged, **rest}
