"""A golden folder: its files, checked, and the MirasConfig of its config.json."""

import functools
import json
import pathlib
import zipfile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from miras_jax.config.model import (
  ClipConfig,
  ConvNextConfig,
  LlamaConfig,
  MirasConfig,
  RopeScaling,
  SamDecoderConfig,
  SamEncoderConfig,
  SegPromptConfig,
)
from miras_jax.errors import UserError

# What our model computes; a folder made with anything else is refused.
FIXED = {
  "encoder": "dual",
  "clip_vision.hidden_act": "quick_gelu",
  "clip_vision.select_feature": "patch",
  "convnext.act": "gelu (erf)",
  "convnext.layer_scale": True,
  "convnext.conv_mlp": False,
  "llm.hidden_act": "silu",
  "llm.mlp_bias": False,
  "mm.image_grid": 1,
  "mm.mm_projector_type": "mlp2x_gelu",
  "sam.use_rel_pos": True,
  "sam.qkv_bias": True,
}


class Folder:
  """Files are read once. A missing or damaged file or key is a UserError naming it."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    if not self.path.is_dir():
      raise UserError(f"{self.path}: no such folder; --golden= wants a golden folder")
    self.config = self.json("config.json")

  def has(self, name):
    return (self.path / name).exists()

  def golden(self, name):
    """A tensor of outputs.npz, or None."""
    return self.npz("outputs.npz").get(name) if self.has("outputs.npz") else None

  def get(self, dotted, default=...):
    """A value of config.json, e.g. get("llm.hidden_size")."""
    value = self.config
    for part in dotted.split("."):
      if not isinstance(value, dict) or part not in value:
        if default is not ...:
          return default
        raise UserError(f"{self.path / 'config.json'}: no key {dotted!r}")
      value = value[part]
    return value

  @functools.lru_cache  # noqa: B019  a folder lives as long as the command
  def json(self, name):
    try:
      return json.loads(self._file(name).read_text())
    except (ValueError, UnicodeDecodeError) as error:
      raise UserError(f"{self.path / name}: not JSON: {error}") from None

  @functools.lru_cache  # noqa: B019
  def npz(self, name):
    """An .npz as Arrays."""
    path = self._file(name)
    try:
      # Opened here: np.load leaves its own file open when the archive is damaged.
      with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return Arrays(path, {key: file[key] for key in file.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise UserError(f"{path}: not a readable .npz: {error}") from None

  @functools.lru_cache  # noqa: B019
  def tensors(self, name):
    """A .safetensors as Arrays."""
    path = self._file(name)
    try:
      return Arrays(path, load_file(path))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
      raise UserError(f"{path}: not a readable .safetensors: {error}") from None

  def _file(self, name):
    path = self.path / name
    if not path.is_file():
      raise UserError(f"{path}: no such file")
    return path


class Arrays(dict):
  """Arrays of one file; a missing key is a UserError."""

  def __init__(self, path, arrays):
    super().__init__(arrays)
    self.path = path

  def __missing__(self, key):
    raise UserError(f"{self.path}: no key {key!r}")


def miras_config(folder, *, lora=False, alignment="none"):
  """The MirasConfig of a folder's config.json; `lora` adds its adapters.

  Raises UserError for a missing key and for what our model does not compute.
  """
  for key, only in FIXED.items():
    value = folder.get(key, only)
    if value != only and folder.get(key.split(".")[0], None) is not None:
      path = folder.path / "config.json"
      raise UserError(f"{path}: {key} is {value!r}, this model has {only!r}")
  try:
    return MirasConfig(
      clip=_clip(folder.get),
      convnext=_convnext(folder.get),
      llama=_llama(folder, lora),
      sam_encoder=_sam_encoder(folder.get),
      sam_decoder=_sam_decoder(folder.get),
      seg_prompt=_seg_prompt(folder, alignment),
    )
  except (ValueError, TypeError) as error:
    raise UserError(f"{folder.path / 'config.json'}: {error}") from None


def _clip(get):
  def clip(key, *default):
    return get(f"clip_vision.{key}", *default)

  return ClipConfig(
    width=clip("hidden_size"),
    mlp_width=clip("intermediate_size"),
    depth=clip("num_hidden_layers"),
    num_heads=clip("num_attention_heads"),
    image_size=clip("image_size"),
    patch_size=clip("patch_size"),
    norm_eps=clip("layer_norm_eps", 1e-5),
    select_layer=clip("select_layer", -2),
  )


def _convnext(get):
  if get("convnext", None) is None:
    return None

  def aux(key, *default):
    return get(f"convnext.{key}", *default)

  height, width = aux("target_size")
  if height != width:
    raise ValueError(f"convnext.target_size {height}x{width} is not square")
  return ConvNextConfig(
    dims=tuple(aux("dims")),
    depths=tuple(aux("depths")),
    image_size=aux("image_size"),
    target_grid=height,
    kernel_size=aux("kernel_size", 7),
    mlp_ratio=aux("mlp_ratio", 4),
    norm_eps=aux("norm_eps", 1e-6),
  )


def _llama(folder, lora):
  def llm(key, *default):
    return folder.get(f"llm.{key}", *default)

  width, num_heads = llm("hidden_size"), llm("num_attention_heads")
  return LlamaConfig(
    width=width,
    mlp_width=llm("intermediate_size"),
    depth=llm("num_hidden_layers"),
    num_heads=num_heads,
    num_kv_heads=llm("num_key_value_heads", num_heads),
    head_dim=llm("head_dim", None) or width // num_heads,
    vocab_size=llm("vocab_size"),
    rope_theta=float(llm("rope_theta", 10_000.0)),
    rope_scaling=_rope_scaling(llm("rope_scaling", None)),
    norm_eps=llm("rms_norm_eps"),
    qkv_bias=llm("attention_bias", False),
    tie_embeddings=llm("tie_word_embeddings", False),
    **(_lora(folder) if lora else {}),
  )


def _rope_scaling(raw):
  """Hugging Face's `rope_scaling` (type or rope_type) -> RopeScaling or None."""
  kind = (raw or {}).get("rope_type", (raw or {}).get("type", "default"))
  if kind == "default":
    return None
  names = {
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
  }
  return RopeScaling(
    kind=kind,
    factor=raw["factor"],
    **{ours: raw[theirs] for ours, theirs in names.items() if theirs in raw},
  )


def _lora(folder):
  """The adapted projections must be the same in every layer, as our layers are one."""
  modules = folder.get("lora.target_modules")
  targets = sorted({m.rsplit(".", 1)[-1] for m in modules})
  depth = folder.get("llm.num_hidden_layers")
  full = any(m.startswith("model.layers.") for m in modules)
  if full and len(modules) != depth * len(targets):
    raise ValueError(f"lora.target_modules differ between the {depth} layers")
  return {
    "lora_rank": folder.get("lora.r"),
    "lora_alpha": float(folder.get("lora.alpha")),
    "lora_targets": tuple(targets),
  }


def _sam_encoder(get):
  def sam(key, *default):
    return get(f"sam.{key}", *default)

  return SamEncoderConfig(
    image_size=sam("img_size"),
    patch_size=sam("patch_size"),
    width=sam("embed_dim"),
    depth=sam("depth"),
    num_heads=sam("num_heads"),
    global_layers=tuple(sam("global_attn_indexes")),
    window_size=sam("window_size"),
    out_width=sam("out_chans"),
    mlp_ratio=sam("mlp_ratio", 4),
    norm_eps=sam("norm_eps_encoder", 1e-6),
    neck_norm_eps=sam("norm_eps_layernorm2d", 1e-6),
  )


def _sam_decoder(get):
  def sam(key, *default):
    return get(f"sam.{key}", *default)

  return SamDecoderConfig(
    width=sam("out_chans"),
    depth=sam("dec_depth"),
    mlp_width=sam("dec_mlp_dim"),
    num_heads=sam("dec_num_heads"),
    mask_channels=sam("mask_in_chans"),
    iou_width=sam("iou_head_hidden_dim"),
    iou_depth=sam("iou_head_depth", 3),
    num_multimask=sam("num_multimask_outputs", 3),
    attention_downsample=sam("attention_downsample_rate", 2),
    norm_eps=sam("norm_eps_decoder", 1e-5),
    upscale_norm_eps=sam("norm_eps_layernorm2d", 1e-6),
  )


def _seg_prompt(folder, alignment):
  heads = folder.get("obj_cross_attention.num_heads") if alignment != "none" else 1
  return SegPromptConfig(
    out_width=folder.get("text_hidden_fcs.out_dim"),
    num_heads=heads,
    seg_state="predict",
    alignment=alignment,
  )
