"""Qwen3: queries and keys are normed head by head; heads of 128 at every width."""

from miras_jax.config.family import Family, sizes

_FEATURES = {"qk_norm": True}


def _qwen3(width, mlp_width, depth, num_heads, **kwargs):
  return sizes(
    width, mlp_width, depth, num_heads, 8, head_dim=128, vocab_size=151_936,
    rope_theta=kwargs.pop("rope_theta", 1e6), norm_eps=1e-6, **_FEATURES, **kwargs,
  )  # fmt: skip


FAMILY = Family(
  name="qwen3",
  architecture="Qwen3ForCausalLM",
  features=_FEATURES,
  defaults={"head_dim": 128},
  layer_keys=(("self_attn.{p:q|k}_norm.weight", "attn/{p}_norm/scale"),),
  variants={
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tie_embeddings=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tie_embeddings=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tie_embeddings=True),
    "qwen3-4b-2507": _qwen3(2560, 9728, 36, 32, tie_embeddings=True, rope_theta=5e6),
    "qwen3-8b": _qwen3(4096, 12_288, 36, 32),
    "qwen3-14b": _qwen3(5120, 17_408, 40, 40),
    "qwen3-32b": _qwen3(5120, 25_600, 64, 64),
  },
)
