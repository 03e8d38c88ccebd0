"""The decoder's parameter tree and its sizes."""

import dataclasses

import numpy as np
import pytest

from miras_jax.config.model import REMAT_POLICIES
from miras_jax.config.variants import LLAMA_VARIANTS
from tests.models.tiny_llama import TINY, shapes_of


def test_parameter_names_and_shapes_are_the_contract():
  cfg = dataclasses.replace(TINY, lora_rank=2, lora_targets=("q_proj", "down_proj"))
  L, D, F, Q, KV = 3, 24, 40, 24, 8
  expected = {
    "embed/embedding": (31, D),
    "lm_head/kernel": (D, 31),
    "final_norm/scale": (D,),
    "layers/input_norm/scale": (L, D),
    "layers/post_attn_norm/scale": (L, D),
    "layers/attn/q_proj/kernel": (L, D, Q),
    "layers/attn/q_proj/bias": (L, Q),
    "layers/attn/k_proj/kernel": (L, D, KV),
    "layers/attn/k_proj/bias": (L, KV),
    "layers/attn/v_proj/kernel": (L, D, KV),
    "layers/attn/v_proj/bias": (L, KV),
    "layers/attn/o_proj/kernel": (L, Q, D),
    "layers/mlp/gate_proj/kernel": (L, D, F),
    "layers/mlp/up_proj/kernel": (L, D, F),
    "layers/mlp/down_proj/kernel": (L, F, D),
    "layers/attn/q_proj/lora_a": (L, D, 2),
    "layers/attn/q_proj/lora_b": (L, 2, Q),
    "layers/mlp/down_proj/lora_a": (L, F, 2),
    "layers/mlp/down_proj/lora_b": (L, 2, D),
  }
  assert shapes_of(cfg) == expected


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_remat_does_not_change_the_parameter_tree(remat):
  assert shapes_of(dataclasses.replace(TINY, remat=remat)) == shapes_of(TINY)


def count_by_formula(cfg):
  D, Q, KV = cfg.width, cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
  attn = D * Q + 2 * D * KV + Q * D + cfg.qkv_bias * (Q + 2 * KV)
  attn += cfg.qk_norm * 2 * cfg.head_dim
  layer = attn + 3 * D * cfg.mlp_width + 2 * D
  tables = 1 if cfg.tie_embeddings else 2
  return tables * cfg.vocab_size * D + cfg.depth * layer + D


@pytest.mark.parametrize(
  "name, published",
  [
    ("llama2-7b", 6_738_415_616),
    ("llama2-13b", 13_015_864_320),
    ("llama2-70b", 68_976_648_192),
    ("llama3-8b", 8_030_261_248),
    ("mistral-7b", 7_241_732_096),
    ("qwen2-7b", 7_615_616_512),
    ("qwen3-0.6b", 596_049_920),
    ("qwen3-4b", 4_022_468_096),
    ("qwen3-8b", 8_190_735_360),
    ("qwen3-32b", 32_762_123_264),
    ("gemma-2b", 2_506_172_416),
    ("gemma-7b", 8_537_680_896),
  ],
)
def test_full_size_parameter_counts(name, published):
  cfg = LLAMA_VARIANTS[name]
  count = sum(int(np.prod(s)) for s in shapes_of(cfg).values())
  assert count == count_by_formula(cfg) == published
