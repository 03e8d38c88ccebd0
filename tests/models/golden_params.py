"""The golden vision weights in our parameter tree, as tables of renaming rules."""

import re

import numpy as np
from flax.traverse_util import unflatten_dict

from miras_jax.config import ClipConfig, ConvNextConfig
from tests.models.golden_llm import arrays, config


def kernel(weight):
  """torch (out, in) or (out, in, height, width) -> ours, (..., in, out)."""
  return weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)


# (full-match regex on the published key, our path, transform); {i} pads to two digits
# fmt: off
CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
CLIP = (
  (r"embeddings\.class_embedding",                  "class_embed",             None),
  (r"embeddings\.patch_embedding\.weight",          "patch_embed/kernel",      kernel),
  (r"embeddings\.position_embedding\.weight",       "pos_embed",               None),
  (r"pre_layrnorm\.weight",                         "pre_norm/scale",          None),
  (r"pre_layrnorm\.bias",                           "pre_norm/bias",           None),
  (r"post_layernorm\.weight",                       "post_norm/scale",         None),
  (r"post_layernorm\.bias",                         "post_norm/bias",          None),
  (r"encoder\.layers\.(\d+)\.layer_norm([12])\.weight",
   r"layer_{1}/norm\2/scale", None),
  (r"encoder\.layers\.(\d+)\.layer_norm([12])\.bias",
   r"layer_{1}/norm\2/bias", None),
  (r"encoder\.layers\.(\d+)\.self_attn\.(\w+)_proj\.weight",
   r"layer_{1}/attn/\2_proj/kernel", kernel),
  (r"encoder\.layers\.(\d+)\.self_attn\.(\w+)_proj\.bias",
   r"layer_{1}/attn/\2_proj/bias", None),
  (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.weight",
   r"layer_{1}/mlp/\2/kernel", kernel),
  (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.bias",
   r"layer_{1}/mlp/\2/bias", None),
)

CONVNEXT_PREFIX = "model.vision_tower_aux."
_BLOCK, _OURS = r"vision_stages\.(\d)\.blocks\.(\d+)\.", r"stage_\1/block_{2}/"
_DOWN = r"vision_stages\.(\d)\.downsample\."
CONVNEXT = (
  (r"vision_stem\.0\.weight",           "stem/conv/kernel",             kernel),
  (r"vision_stem\.0\.bias",             "stem/conv/bias",               None),
  (r"vision_stem\.1\.weight",           "stem/norm/scale",              None),
  (r"vision_stem\.1\.bias",             "stem/norm/bias",               None),
  (_DOWN + r"0\.weight",                r"stage_\1/downsample/norm/scale",  None),
  (_DOWN + r"0\.bias",                  r"stage_\1/downsample/norm/bias",   None),
  (_DOWN + r"1\.weight",                r"stage_\1/downsample/conv/kernel", kernel),
  (_DOWN + r"1\.bias",                  r"stage_\1/downsample/conv/bias",   None),
  (_BLOCK + r"conv_dw\.weight",         _OURS + "dwconv/kernel",        kernel),
  (_BLOCK + r"conv_dw\.bias",           _OURS + "dwconv/bias",          None),
  (_BLOCK + r"norm\.weight",            _OURS + "norm/scale",           None),
  (_BLOCK + r"norm\.bias",              _OURS + "norm/bias",            None),
  (_BLOCK + r"mlp\.(fc[12])\.weight",   _OURS + r"\3/kernel",           kernel),
  (_BLOCK + r"mlp\.(fc[12])\.bias",     _OURS + r"\3/bias",             None),
  (_BLOCK + r"gamma",                   _OURS + "gamma",                None),
)

FUSION_PREFIX = "model."
FUSION = (
  (r"vlm_uni_query_projector\.0\.weight",  "mining/query_norm/scale",   None),
  (r"vlm_uni_query_projector\.0\.bias",    "mining/query_norm/bias",    None),
  (r"vlm_uni_query_projector\.1\.weight",  "mining/query_proj/kernel",  kernel),
  (r"vlm_uni_query_projector\.1\.bias",    "mining/query_proj/bias",    None),
  (r"vlm_uni_aux_projector\.0\.weight",    "mining/key_norm/scale",     None),
  (r"vlm_uni_aux_projector\.0\.bias",      "mining/key_norm/bias",      None),
  (r"vlm_uni_aux_projector\.1\.weight",    "mining/key_proj/kernel",    kernel),
  (r"vlm_uni_aux_projector\.1\.bias",      "mining/key_proj/bias",      None),
  (r"vlm_uni_val_projector\.0\.weight",    "mining/value_norm/scale",   None),
  (r"vlm_uni_val_projector\.0\.bias",      "mining/value_norm/bias",    None),
  (r"vlm_uni_val_projector\.1\.weight",    "mining/value_proj/kernel",  kernel),
  (r"vlm_uni_val_projector\.1\.bias",      "mining/value_proj/bias",    None),
  (r"mm_projector\.0\.weight",             "projector/fc1/kernel",      kernel),
  (r"mm_projector\.0\.bias",               "projector/fc1/bias",        None),
  (r"mm_projector\.2\.weight",             "projector/fc2/kernel",      kernel),
  (r"mm_projector\.2\.bias",               "projector/fc2/bias",        None),
)
# fmt: on


def rename(state, rules, prefix, *, belongs=r".*"):
  """Nested dict of the keys below `prefix`; each must meet exactly one rule."""
  out = {}
  for key, weight in state.items():
    name = key.removeprefix(prefix)
    if name == key or not re.fullmatch(belongs, name):
      continue
    hits = [(dst, fn, m) for src, dst, fn in rules if (m := re.fullmatch(src, name))]
    if len(hits) != 1:
      raise ValueError(f"{key!r} matches {len(hits)} rules, want exactly one")
    dst, fn, match = hits[0]
    padded = re.sub(r"\{(\d)\}", lambda d, m=match: f"{int(m[int(d[1])]):02d}", dst)
    out[match.expand(padded)] = fn(weight) if fn else np.asarray(weight)
  return unflatten_dict(out, sep="/")


def clip_params(state):
  return rename(state, CLIP, CLIP_PREFIX)


def convnext_params(state):
  return rename(state, CONVNEXT, CONVNEXT_PREFIX)


def fusion_params(state):
  """{"mining": ..., "projector": ...}"""
  return rename(state, FUSION, FUSION_PREFIX, belongs=r"(vlm_uni_|mm_projector).*")


def clip_config():
  clip = config()["clip_vision"]
  return ClipConfig(
    width=clip["hidden_size"], mlp_width=clip["intermediate_size"],
    depth=clip["num_hidden_layers"], num_heads=clip["num_attention_heads"],
    image_size=clip["image_size"], patch_size=clip["patch_size"],
    norm_eps=clip["layer_norm_eps"], select_layer=clip["select_layer"])


def convnext_config():
  aux = config()["convnext"]
  return ConvNextConfig(
    dims=tuple(aux["dims"]), depths=tuple(aux["depths"]),
    image_size=aux["image_size"], target_grid=aux["target_size"][0],
    kernel_size=aux["kernel_size"], mlp_ratio=aux["mlp_ratio"],
    norm_eps=aux["norm_eps"])


def images(name):
  """A golden NCHW image input as NHWC, one row per conversation."""
  inputs = arrays("inputs.npz")
  image_of_row = np.repeat(
    np.arange(len(inputs["offset"]) - 1), np.diff(inputs["offset"]))
  return inputs[name].transpose(0, 2, 3, 1)[image_of_row]


def output_of(seen, name):
  """The output of submodule `name` that `capture_intermediates=True` recorded."""
  return seen["intermediates"][name]["__call__"][0]


def nhwc(name):
  """A golden NCHW feature map of outputs.npz as NHWC."""
  return arrays("outputs.npz")[name].transpose(0, 2, 3, 1)
