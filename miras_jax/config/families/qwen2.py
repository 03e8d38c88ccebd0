"""Qwen2 and 2.5: a Llama whose queries, keys and values have biases."""

from miras_jax.config.family import Family, sizes

_FEATURES = {"qkv_bias": True}

FAMILY = Family(
  name="qwen2",
  architecture="Qwen2ForCausalLM",
  features=_FEATURES,
  variants={
    "qwen2-7b": sizes(
      3584, 18_944, 28, 28, 4, vocab_size=152_064, rope_theta=1e6, norm_eps=1e-6,
      **_FEATURES,
    )
  },
)  # fmt: skip
