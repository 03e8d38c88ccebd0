"""Llama 1 to 3, and what is built like it: Vicuna, TinyLlama, Yi."""

from miras_jax.config.family import Family, sizes
from miras_jax.config.model import RopeScaling

_LLAMA3 = dict(vocab_size=128_256, rope_theta=5e5)

# Base vocabularies as published; the added control tokens come on top.
FAMILY = Family(
  name="llama",
  architecture="LlamaForCausalLM",
  variants={
    "tinyllama-1.1b": sizes(2048, 5632, 22, 32, 4),
    "llama2-7b": sizes(4096, 11_008, 32, 32),
    "llama2-13b": sizes(5120, 13_824, 40, 40),
    "yi-34b": sizes(7168, 20_480, 60, 56, 8, vocab_size=64_000, rope_theta=5e6),
    "llama2-70b": sizes(8192, 28_672, 80, 64, 8),
    "llama3-8b": sizes(4096, 14_336, 32, 32, 8, **_LLAMA3),
    "llama3.1-8b": sizes(
      4096, 14_336, 32, 32, 8, **_LLAMA3,
      rope_scaling=RopeScaling(kind="llama3", factor=8.0),
    ),
  },
)  # fmt: skip
