"""Mistral: a Llama with a sliding window, which is full attention up to its length."""

from miras_jax.config.family import Family, sizes

FAMILY = Family(
  name="mistral",
  architecture="MistralForCausalLM",
  windowed=True,
  variants={"mistral-7b": sizes(4096, 14_336, 32, 32, 8)},
)
