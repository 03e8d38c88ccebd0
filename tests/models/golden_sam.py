"""Golden weights of the SAM parts, renamed to our parameter tree, and its config.

The published names begin with `model.visual_model.`, then `image_encoder`,
`prompt_encoder` or `mask_decoder`.
"""

import functools
import json
import math
import re

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from miras_jax.config import SamDecoderConfig, SamEncoderConfig
from tests.shared_data import GOLDEN

PREFIX = "model.visual_model."


def _linear(w):  # (out, in) -> (in, out)
  return w.T


def _conv(w):  # (out, in, height, width) -> (height, width, in, out)
  return w.transpose(2, 3, 1, 0)


def _deconv(w):  # (in, out, height, width) -> (height, width, in, out)
  return w.transpose(2, 3, 0, 1)


# Block numbers become two digits; see `_two_digits`.
ENCODER = (
  (r"patch_embed\.proj\.weight", "patch_embed/kernel", _conv),
  (r"patch_embed\.proj\.bias", "patch_embed/bias", None),
  (r"pos_embed", "pos_embed", None),
  (r"blocks\.(\d+)\.(norm[12])\.weight", r"block_\1/\2/scale", None),
  (r"blocks\.(\d+)\.(norm[12])\.bias", r"block_\1/\2/bias", None),
  (r"blocks\.(\d+)\.attn\.(rel_pos_[hw])", r"block_\1/attn/\2", None),
  (r"blocks\.(\d+)\.attn\.(qkv|proj)\.weight", r"block_\1/attn/\2/kernel", _linear),
  (r"blocks\.(\d+)\.attn\.(qkv|proj)\.bias", r"block_\1/attn/\2/bias", None),
  (r"blocks\.(\d+)\.mlp\.lin([12])\.weight", r"block_\1/mlp/fc\2/kernel", _linear),
  (r"blocks\.(\d+)\.mlp\.lin([12])\.bias", r"block_\1/mlp/fc\2/bias", None),
  (r"neck\.0\.weight", "neck/conv1/kernel", _conv),
  (r"neck\.1\.weight", "neck/norm1/scale", None),
  (r"neck\.1\.bias", "neck/norm1/bias", None),
  (r"neck\.2\.weight", "neck/conv2/kernel", _conv),
  (r"neck\.3\.weight", "neck/norm2/scale", None),
  (r"neck\.3\.bias", "neck/norm2/bias", None),
)
_DOWN = "mask_downscaling/"
PROMPT = (
  (r"pe_layer\.positional_encoding_gaussian_matrix", "pe/gaussian", None),
  (r"point_embeddings\.(\d)\.weight", r"point_embeddings_\1", None),
  (r"(not_a_point_embed|no_mask_embed)\.weight", r"\1", None),
  (r"mask_downscaling\.0\.weight", _DOWN + "conv1/kernel", _conv),
  (r"mask_downscaling\.0\.bias", _DOWN + "conv1/bias", None),
  (r"mask_downscaling\.1\.weight", _DOWN + "norm1/scale", None),
  (r"mask_downscaling\.1\.bias", _DOWN + "norm1/bias", None),
  (r"mask_downscaling\.3\.weight", _DOWN + "conv2/kernel", _conv),
  (r"mask_downscaling\.3\.bias", _DOWN + "conv2/bias", None),
  (r"mask_downscaling\.4\.weight", _DOWN + "norm2/scale", None),
  (r"mask_downscaling\.4\.bias", _DOWN + "norm2/bias", None),
  (r"mask_downscaling\.6\.weight", _DOWN + "conv3/kernel", _conv),
  (r"mask_downscaling\.6\.bias", _DOWN + "conv3/bias", None),
)
_UP, _NORM = "output_upscaling/", "transformer/norm_final_attn/"
_LAYER, _OURS = r"transformer\.layers\.(\d+)\.", r"transformer/layer_\1/"
_ATTN = r"(self_attn|cross_attn_\w+)\.(\w+_proj)\."
_FINAL = r"transformer\.(final_attn_token_to_image)\.(\w+_proj)\."
_HYPER = r"output_hypernetworks_mlps\.(\d)\.layers\.(\d)\."
_IOU = r"iou_prediction_head\.layers\.(\d)\."
DECODER = (
  (r"(iou_token|mask_tokens)\.weight", r"\1", None),
  (_LAYER + _ATTN + "weight", _OURS + r"\2/\3/kernel", _linear),
  (_LAYER + _ATTN + "bias", _OURS + r"\2/\3/bias", None),
  (_LAYER + r"(norm\d)\.weight", _OURS + r"\2/scale", None),
  (_LAYER + r"(norm\d)\.bias", _OURS + r"\2/bias", None),
  (_LAYER + r"mlp\.lin([12])\.weight", _OURS + r"mlp/fc\2/kernel", _linear),
  (_LAYER + r"mlp\.lin([12])\.bias", _OURS + r"mlp/fc\2/bias", None),
  (_FINAL + "weight", r"transformer/\1/\2/kernel", _linear),
  (_FINAL + "bias", r"transformer/\1/\2/bias", None),
  (r"transformer\.norm_final_attn\.weight", _NORM + "scale", None),
  (r"transformer\.norm_final_attn\.bias", _NORM + "bias", None),
  (r"output_upscaling\.0\.weight", _UP + "conv1/kernel", _deconv),
  (r"output_upscaling\.0\.bias", _UP + "conv1/bias", None),
  (r"output_upscaling\.1\.weight", _UP + "norm/scale", None),
  (r"output_upscaling\.1\.bias", _UP + "norm/bias", None),
  (r"output_upscaling\.3\.weight", _UP + "conv2/kernel", _deconv),
  (r"output_upscaling\.3\.bias", _UP + "conv2/bias", None),
  (_HYPER + "weight", r"output_hypernetworks_\1/layers_\2/kernel", _linear),
  (_HYPER + "bias", r"output_hypernetworks_\1/layers_\2/bias", None),
  (_IOU + "weight", r"iou_prediction_head/layers_\1/kernel", _linear),
  (_IOU + "bias", r"iou_prediction_head/layers_\1/bias", None),
)


def encoder_params():
  return _params("image_encoder.", ENCODER)


def prompt_params():
  return _params("prompt_encoder.", PROMPT)


def decoder_params():
  return _params("mask_decoder.", DECODER)


def encoder_config():
  sam = golden_config()["sam"]
  return SamEncoderConfig(
    image_size=sam["img_size"],
    patch_size=sam["patch_size"],
    width=sam["embed_dim"],
    depth=sam["depth"],
    num_heads=sam["num_heads"],
    global_layers=tuple(sam["global_attn_indexes"]),
    window_size=sam["window_size"],
    out_width=sam["out_chans"],
    mlp_ratio=sam["mlp_ratio"],
    norm_eps=sam["norm_eps_encoder"],
    neck_norm_eps=sam["norm_eps_layernorm2d"],
  )


def decoder_config():
  sam = golden_config()["sam"]
  return SamDecoderConfig(
    width=sam["out_chans"],
    depth=sam["dec_depth"],
    mlp_width=sam["dec_mlp_dim"],
    num_heads=sam["dec_num_heads"],
    mask_channels=sam["mask_in_chans"],
    iou_width=sam["iou_head_hidden_dim"],
    iou_depth=sam["iou_head_depth"],
    num_multimask=sam["num_multimask_outputs"],
    attention_downsample=sam["attention_downsample_rate"],
    norm_eps=sam["norm_eps_decoder"],
    upscale_norm_eps=sam["norm_eps_layernorm2d"],
  )


def random_params(module, *args):
  """Random weights that keep activations near 1; no initialiser is compiled."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(0)

  def draw(path, shape):
    noise = rng.normal(size=shape).astype(np.float32)
    if path.endswith("kernel"):
      return noise / math.sqrt(np.prod(shape[:-1]))
    return 1 + 0.1 * noise if path.endswith("scale") else 0.3 * noise

  flat = flatten_dict(shapes, sep="/")
  return unflatten_dict({k: draw(k, x.shape) for k, x in flat.items()}, sep="/")


def golden_config():
  return json.loads((GOLDEN / "config.json").read_text())


@functools.cache
def arrays(name):
  """All arrays of a golden .npz, e.g. arrays("outputs")["sam/block_0"]."""
  with np.load(GOLDEN / f"{name}.npz") as file:
    return dict(file)


def channels_last(x):
  """NCHW -> NHWC; leading axes are free."""
  return np.moveaxis(x, -3, -1)


@functools.cache
def _params(part, rules):
  flat = _rename(load_file(GOLDEN / "state_dict.safetensors"), part, rules)
  return unflatten_dict(flat, sep="/")


def _rename(source, part, rules):
  out = {}
  for name, w in source.items():
    if not name.startswith(PREFIX + part):
      continue
    key = name.removeprefix(PREFIX + part)
    hits = [rule for rule in rules if re.fullmatch(rule[0], key)]
    if len(hits) != 1:
      raise ValueError(f"{key!r} matches {len(hits)} rules, want exactly one")
    pattern, ours, fn = hits[0]
    path = _two_digits(re.sub(pattern, ours, key))
    out[path] = np.ascontiguousarray(fn(w) if fn else w)
  return out


def _two_digits(path):
  return re.sub(r"\b(block|layer)_(\d+)", lambda m: f"{m[1]}_{int(m[2]):02d}", path)
