"""CLIP vision towers: Hugging Face names and OpenAI / OpenCLIP names."""

from miras_jax.convert.tables.mapping import Table
from miras_jax.convert.tables.rules import Rule, conv, join_thirds, linear, norm, thirds

# Hugging Face, below `vision_model.`. `pre_layrnorm` is spelt so.
_LAYER, _OURS = "encoder.layers.{i}.", "clip/layer_{i:02}/"
RULES = (
  Rule("embeddings.class_embedding", "clip/class_embed"),
  conv("embeddings.patch_embedding", "clip/patch_embed")[0],
  Rule("embeddings.position_embedding.weight", "clip/pos_embed"),
  *norm("pre_layrnorm", "clip/pre_norm"),
  *norm(_LAYER + "layer_norm{n:1|2}", _OURS + "norm{n}"),
  *linear(_LAYER + "self_attn.{p:q|k|v|out}_proj", _OURS + "attn/{p}_proj"),
  *linear(_LAYER + "mlp.fc{n:1|2}", _OURS + "mlp/fc{n}"),
  *norm("post_layernorm", "clip/post_norm"),
)
HF = Table(
  RULES,
  prefixes=("vision_model.", ""),
  ignored=(
    r"embeddings\.position_ids",
    r"text_model\..*",
    r"(visual|text)_projection\.weight",
    r"logit_scale",
  ),
)

_LAYER = "visual.transformer.resblocks.{i}."
_QKV = tuple(f"{_OURS}attn/{p}_proj/" for p in "qkv")
OPENAI = Table(
  (
    Rule("visual.class_embedding", "clip/class_embed"),
    conv("visual.conv1", "clip/patch_embed")[0],
    Rule("visual.positional_embedding", "clip/pos_embed"),
    *norm("visual.ln_pre", "clip/pre_norm"),
    *norm(_LAYER + "ln_{n:1|2}", _OURS + "norm{n}"),
    Rule(
      _LAYER + "attn.in_proj_weight",
      tuple(q + "kernel" for q in _QKV),
      thirds,
      join_thirds,
    ),
    Rule(
      _LAYER + "attn.in_proj_bias", tuple(q + "bias" for q in _QKV), thirds, join_thirds
    ),
    *linear(_LAYER + "attn.out_proj", _OURS + "attn/out_proj"),
    *linear(_LAYER + "mlp.c_fc", _OURS + "mlp/fc1"),
    *linear(_LAYER + "mlp.c_proj", _OURS + "mlp/fc2"),
    *norm("visual.ln_post", "clip/post_norm"),
  ),
  # The text tower, the joint projection, and what OpenAI's own archive adds.
  ignored=(
    r"visual\.proj",
    r"transformer\.resblocks\..*",
    r"token_embedding\.weight",
    r"positional_embedding",
    r"ln_final\..*",
    r"text_projection",
    r"logit_scale",
    r"attn_mask",
    r"input_resolution",
    r"context_length",
    r"vocab_size",
  ),
)
