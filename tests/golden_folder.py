"""A folder in the form of the golden one, of other sizes and random weights.

Grouped queries, three decoder layers with biases, windows of 2 in patch mining, SAM
windows that need padding, an adapter on three projections, other image sizes.
"""

import json

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import export
from miras_jax.models.miras import init_params
from miras_jax.parity.folder import Folder, miras_config


def lora(depth):
  names = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
  modules = [f"model.layers.{i}.{name}" for i in range(depth) for name in names]
  return {"r": 3, "alpha": 6, "target_modules": modules}


CONFIG = {
  "clip_vision": {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 30,
    "patch_size": 10,
    "select_layer": -3,
  },
  "convnext": {
    "dims": [4, 8, 12, 16],
    "depths": [1, 2, 1, 1],
    "image_size": 96,
    "target_size": [6, 6],
    "kernel_size": 5,
    "mlp_ratio": 2,
  },
  "llm": {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5e5,
    "vocab_size": 61,
    "attention_bias": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
  },
  "mm": {"tokenizer_model_max_length": 64, "tokenizer_padding_side": "right"},
  "tokens": {"SEG": 56, "IM_START": 57, "IM_END": 58, "IM_PATCH": 59, "OBJ": 60},
  "sam": {
    "img_size": 80,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "global_attn_indexes": [0, 2],
    "window_size": 4,
    "out_chans": 16,
    "mask_in_chans": 8,
    "dec_depth": 1,
    "dec_mlp_dim": 20,
    "dec_num_heads": 2,
    "iou_head_hidden_dim": 12,
    "mlp_ratio": 2,
  },
  "text_hidden_fcs": {"in_dim": 40, "out_dim": 16},
  "obj_cross_attention": {"embed_dim": 16, "num_heads": 2},
  "seg_offset_legacy": 3,
  "loss": {
    "stage1": {"ce": 1.0, "dice": 0.25, "bce": 1.5},
    "stage2": {"ce": 0.5, "dice": 0.5, "focal": 2.0, "boundary": 0.5},
    "dice_scale": 100.0,
    "dice_eps": 1e-6,
    "focal_alpha": 0.7,
    "focal_gamma": 3.0,
    "boundary_scale": 10.0,
    "boundary_eps": 1e-6,
    "boundary_threshold": 0.4,
  },
  "lora": lora(depth=3),
}
# The sizes of the public folder, all of which a converted folder can say: no biases, no
# rope scaling, and the tokens of the tokenizer that `golden_source` saves.
PUBLIC_SIZES = CONFIG | {
  "clip_vision": {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "select_layer": -2,
  },
  "convnext": {
    "dims": [8, 16, 32, 64],
    "depths": [1, 1, 2, 1],
    "image_size": 128,
    "target_size": [8, 8],
    "kernel_size": 7,
    "mlp_ratio": 4,
  },
  "llm": {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "vocab_size": 133,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
  },
  "tokens": {"SEG": 128, "IM_START": 129, "IM_END": 130, "IM_PATCH": 131, "OBJ": 132},
  "sam": {
    "img_size": 128,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "global_attn_indexes": [1],
    "window_size": 3,
    "out_chans": 32,
    "mask_in_chans": 16,
    "dec_depth": 2,
    "dec_mlp_dim": 48,
    "dec_num_heads": 4,
    "iou_head_hidden_dim": 24,
    "mlp_ratio": 4,
  },
  "text_hidden_fcs": {"in_dim": 64, "out_dim": 32},
  "obj_cross_attention": {"embed_dim": 32, "num_heads": 4},
  "lora": lora(depth=2),
}
# Conversation ids: 3 conversations on 2 images; the first image has two masks.
SIZES = ((50, 70), (64, 40))
CONVERSATIONS = (
  [1, 9, 57, -200, 58, 11, 60, 12, 56, 2],
  [1, 57, -200, 58, 13, 14, 56, 2],
  [1, 8, 57, -200, 58, 15, 2, 16, 17, 60, 18, 56, 2],
)


def make(path, config=CONFIG, *, seed=0):
  """Writes config, weights, adapters, alignment and inputs; returns a Folder."""
  path.mkdir()
  (path / "config.json").write_text(json.dumps(config))
  folder = Folder(path)
  cfg = miras_config(folder, lora=True, alignment="published")
  flat = random_params(cfg, seed)
  picked = {"lora_adapter": "/lora_", "obj_cross_attention": "/align/"}
  tables = {"lora_adapter": miras.TRAINING, "obj_cross_attention": miras.ALIGN}
  for file, mark in picked.items():
    part = {k: flat.pop(k) for k in list(flat) if mark in k}
    save(path / f"{file}.safetensors", export(unflatten(part), tables[file]))
  save(path / "state_dict.safetensors", export(unflatten(flat), miras.MIRAS))
  np.savez(path / "inputs.npz", **inputs(cfg, config["tokens"], seed))
  return folder


def unflatten(flat):
  return unflatten_dict(flat, sep="/")


def save(path, arrays):
  save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)


def random_params(cfg, seed):
  """{path: array} that keeps activations near 1 and every parameter visible."""
  tree = jax.eval_shape(lambda rng: init_params(cfg, rng), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    noise = rng.normal(size=shape).astype(np.float32)
    if path.endswith(("kernel", "lora_a", "lora_b")):
      fan_in = np.prod(shape[1 if "layers/" in path else 0 : -1])
      return (noise / np.sqrt(fan_in)).astype(np.float32)
    return 1 + 0.1 * noise if path.endswith("scale") else 0.3 * noise

  return {k: draw(k, x.shape) for k, x in flatten_dict(tree, sep="/").items()}


def inputs(cfg, tokens, seed):
  """The batch, under the names of inputs.npz."""
  rng = np.random.default_rng(seed + 1)
  sam, grid = cfg.sam_encoder.image_size, cfg.sam_encoder.grid

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  width = max(map(len, CONVERSATIONS))
  ids = np.array([row + [0] * (width - len(row)) for row in CONVERSATIONS])
  first = CONFIG["tokens"]["SEG"]  # of the five control tokens, which are last
  ids = np.where(ids < first, ids, ids - first + tokens["SEG"])
  plain = np.where(ids == tokens["OBJ"], 10, ids)
  answers = np.arange(width) >= np.array([[6], [4], [8]])
  resize = [[int(side * sam / max(hw) + 0.5) for side in hw] for hw in SIZES]
  masks = [(rng.random((n, *hw)) < 0.4) for n, hw in zip((2, 1), SIZES, strict=True)]
  return {
    "images": normal(2, 3, sam, sam),
    "images_clip": normal(2, 3, cfg.clip.image_size, cfg.clip.image_size),
    "images_aux": normal(2, 3, cfg.convnext.image_size, cfg.convnext.image_size),
    "input_ids": plain,
    "input_ids_obj": ids,
    "labels": np.where(answers & (ids != 0), plain, -100),
    "attention_masks": ids != 0,
    "offset": np.array([0, 2, 3]),
    "resize_list": np.array(resize),
    "original_sizes": np.array(SIZES),
    "gt_masks_0": masks[0].astype(np.float32),
    "gt_masks_1": masks[1].astype(np.float32),
    "prompt_points": (rng.random((2, 3, 2)) * sam).astype(np.float32),
    "prompt_point_labels": np.array([[1, 0, -1], [0, 1, 1]], np.float32),
    "prompt_boxes": np.array([[2, 3, 40, 50], [10, 5, 70, 33]], np.float32),
    "prompt_mask_inputs": normal(2, 1, 4 * grid, 4 * grid),
    "prompt_text_embeds": normal(2, 1, cfg.sam_decoder.width),
  }
