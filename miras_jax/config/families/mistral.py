"""Mistral: a Llama with a sliding window, which is full attention up to its length.

Versions 0.2 and 0.3 have no window and another rotary base, in the same shapes.
"""

from miras_jax.config.family import Family, sizes

FAMILY = Family(
  name="mistral",
  architecture="MistralForCausalLM",
  windowed=True,
  variants={
    "mistral-7b": sizes(4096, 14_336, 32, 32, 8),
    "mistral-7b-v0.2": sizes(4096, 14_336, 32, 32, 8, rope_theta=1e6),
    "mistral-7b-v0.3": sizes(
      4096, 14_336, 32, 32, 8, vocab_size=32_768, rope_theta=1e6
    ),
  },
)
