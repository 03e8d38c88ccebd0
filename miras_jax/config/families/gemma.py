"""Gemma: norms store what is added to 1, embeddings are scaled, the mlp is a GELU."""

from miras_jax.config.family import Family, sizes

_FEATURES = {"activation": "gelu_tanh", "norm_offset": 1.0, "embed_scale": True}


def _gemma(width, mlp_width, depth, num_heads, num_kv_heads):
  return sizes(
    width, mlp_width, depth, num_heads, num_kv_heads, head_dim=256, vocab_size=256_000,
    norm_eps=1e-6, tie_embeddings=True, **_FEATURES,
  )  # fmt: skip


FAMILY = Family(
  name="gemma",
  architecture="GemmaForCausalLM",
  features=_FEATURES,
  defaults={
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
  },
  activations=("gelu",),  # the first release wrote this and meant the tanh form
  variants={
    "gemma-2b": _gemma(2048, 16_384, 18, 8, 1),
    "gemma-7b": _gemma(3072, 24_576, 28, 16, 16),
  },
)
