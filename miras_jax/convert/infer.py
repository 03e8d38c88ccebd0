"""The MirasConfig of published weights, read off their shapes and settings.

Shapes say almost everything. What they cannot say (heads, rotary base, image size of
the second encoder) comes from the settings beside the weights, from the published
models, or from `--set=FIELD=VALUE`.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from miras_jax.config.model import (
  ClipConfig,
  ConvNextConfig,
  SamDecoderConfig,
  SamEncoderConfig,
  SegPromptConfig,
)
from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import CONVNEXT_L_768, VARIANTS
from miras_jax.convert import clip_settings, decoder
from miras_jax.errors import UserError

PUBLISHED_HEAD_DIM = 64  # of every CLIP ViT
LOOPED = 12  # blocks from which an encoder runs as a loop, as every full-size one does
# What neither the weights nor the settings of published parts show.
UNSEEN = (
  "convnext.image_size",
  "convnext.target_grid",
  "sam_decoder.num_heads",
  "seg_prompt.num_heads",
)


def our_shapes(sources):
  """{our path: shape} of what the sources hold; a stack has its layers in front."""
  shapes, depth = {}, {}
  for source in sources:
    for key, info in source.infos.items():
      empty = np.broadcast_to(np.zeros((), np.uint8), info.shape)
      for place, array in _read(source, key, empty):
        shapes[place.path] = array.shape
        if place.layer is not None:
          depth[place.path] = max(depth.get(place.path, 0), place.layer + 1)
  return {k: (depth[k], *s) if k in depth else s for k, s in shapes.items()}


def _read(source, key, empty):
  """`Table.read` with errors that name the file and the shape."""
  try:
    return source.table.read(key, empty)
  except UserError as error:
    raise UserError(f"{source.file_of(key)}: {error}") from None
  except (ValueError, TypeError) as error:
    raise UserError(
      f"{source.file_of(key)}: {key!r} has shape {list(empty.shape)}: {error}"
    ) from None


def miras_config(sources, shapes, overrides):
  """MirasConfig of the sources together; a part that none of them has is the 7B's.

  overrides: {dotted field: value} wins over all that is found.
  """
  for source in sources:
    if source.miras:  # written by `--to=miras`: nothing is left to guess
      return _stored(source, overrides)
  base = VARIANTS["7b"]
  parts = {path.split("/")[0] for path in shapes}
  settings = _settings_of(sources)
  try:
    cfg = dataclasses.replace(
      base,
      clip=_clip(sources, shapes) if "clip" in parts else base.clip,
      convnext=_convnext(shapes, parts, settings),
      llama=decoder.llama_config(sources, shapes, base.llama, overrides),
      projector="linear" if "projector/linear/kernel" in shapes else base.projector,
    )
    if "sam" in parts:
      encoder, masks = _sam_encoder(shapes), _sam_decoder(shapes)
      seg_prompt = dataclasses.replace(base.seg_prompt, out_width=masks.width)
      cfg = dataclasses.replace(
        cfg, sam_encoder=encoder, sam_decoder=masks, seg_prompt=seg_prompt
      )
    if "seg_prompt" in parts:
      cfg = dataclasses.replace(cfg, seg_prompt=_seg_prompt(shapes, cfg.sam_decoder))
    return with_overrides(cfg, overrides)
  except KeyError as error:
    raise UserError(
      f"no source has our {error}, which its other tensors need"
    ) from None
  except (ValueError, TypeError) as error:
    raise UserError(f"the sources do not fit together: {error}") from None


def unseen(variant):
  """{dotted field: value} of a size of ours for what is not shown; {} for ""."""
  if not variant:
    return {}
  return {path: _field(VARIANTS[variant], path) for path in UNSEEN}


def _field(cfg, path):
  return functools.reduce(getattr, path.split("."), cfg)


def _stored(source, overrides):
  try:
    stored = source.miras["overrides"] | overrides
    return with_overrides(VARIANTS[source.miras["variant"]], stored)
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{source.folder / 'miras_config.json'}: cannot be used: {error}"
    ) from None


def overrides_of(cfg):
  """(variant, {dotted field: value}) that `with_overrides` turns into `cfg`."""
  best = None
  for name, variant in VARIANTS.items():
    found = _differences(variant, cfg)
    if best is None or len(found) < len(best[1]):
      best = name, found
  return best


def _differences(old, new, prefix=""):
  found = {}
  for field in dataclasses.fields(old):
    a, b = getattr(old, field.name), getattr(new, field.name)
    path = prefix + field.name
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
      found |= _differences(a, b, f"{path}.")
    elif dataclasses.is_dataclass(b):
      found |= {f"{path}.{k}": v for k, v in dataclasses.asdict(b).items()}
    elif a != b:
      found[path] = list(b) if isinstance(b, tuple) else b
  return found


# -- parts ----------------------------------------------------------------------------


def _settings_of(sources):
  """Settings of all sources together, nested ones on top."""
  found = {}
  for source in sources:
    found |= source.settings
  return found


def _count(shapes, pattern):
  """How many different numbers the pattern's group takes."""
  hits = (re.match(pattern, path) for path in shapes)
  return len({m[1] for m in hits if m})


def _square(count, what):
  side = math.isqrt(count)
  if side * side != count:
    raise ValueError(f"{what} has {count} places, which is not a square")
  return side


def _clip(sources, shapes):
  patch, _, _, width = shapes["clip/patch_embed/kernel"]
  grid = _square(shapes["clip/pos_embed"][0] - 1, "CLIP's position embedding")
  settings = clip_settings.read(sources)
  heads = settings.heads
  if heads is None or width % heads:
    heads = max(1, width // PUBLISHED_HEAD_DIM)
  depth = _count(shapes, r"clip/layer_(\d+)/")
  return ClipConfig(
    width=width,
    mlp_width=shapes["clip/layer_00/mlp/fc1/kernel"][1],
    depth=depth,
    num_heads=heads,
    image_size=grid * patch,
    patch_size=patch,
    norm_eps=settings.norm_eps,
    activation=settings.activation,
    scan_blocks=depth >= LOOPED,
  )


def _convnext(shapes, parts, settings):
  """None for a model with a projector and no patch mining: LLaVA, LISA."""
  if "convnext" not in parts:
    whole = "projector" not in parts or "mining" in parts
    return VARIANTS["7b"].convnext if whole else None
  stages = range(4)
  image_size = settings.get("image_size_aux", CONVNEXT_L_768.image_size)
  depths = tuple(
    _count(shapes, rf"convnext/stage_{s}/block_(\d+)/gamma") for s in stages
  )
  return ConvNextConfig(
    dims=tuple(shapes[f"convnext/stage_{s}/block_00/gamma"][0] for s in stages),
    depths=depths,
    image_size=image_size,
    target_grid=image_size // 16,
    kernel_size=shapes["convnext/stage_0/block_00/dwconv/kernel"][0],
    scan_blocks=max(depths) >= LOOPED,
  )


def _sam_encoder(shapes):
  path = "sam/encoder/"
  patch = shapes[path + "patch_embed/kernel"][0]
  _, grid, _, width = shapes[path + "pos_embed"]
  depth = _count(shapes, path + r"block_(\d+)/")
  # A window's relative positions are 2 n - 1; a global block's n is the grid.
  spans = [
    (shapes[f"{path}block_{i:02}/attn/rel_pos_h"][0] + 1) // 2 for i in range(depth)
  ]
  windows = [n for n in spans if n != grid]
  return SamEncoderConfig(
    image_size=grid * patch,
    patch_size=patch,
    width=width,
    depth=depth,
    num_heads=width // shapes[path + "block_00/attn/rel_pos_h"][1],
    global_layers=tuple(i for i, n in enumerate(spans) if n == grid),
    window_size=windows[0] if windows else grid,
    out_width=shapes[path + "neck/conv1/kernel"][-1],
    mlp_ratio=shapes[path + "block_00/mlp/fc1/kernel"][1] // width,
    scan_blocks=depth >= LOOPED,
  )


def _sam_decoder(shapes):
  path, prompt = "sam/decoder/", "sam/prompt_encoder/"
  heads = VARIANTS["7b"].sam_decoder.num_heads
  tokens, width = shapes[path + "mask_tokens"]
  key = shapes[path + "transformer/layer_00/cross_attn_token_to_image/q_proj/kernel"]
  return SamDecoderConfig(
    width=width,
    depth=_count(shapes, path + r"transformer/layer_(\d+)/"),
    mlp_width=shapes[path + "transformer/layer_00/mlp/fc1/kernel"][1],
    num_heads=heads,
    mask_channels=shapes[prompt + "mask_downscaling/conv2/kernel"][-1],
    iou_width=shapes[path + "iou_prediction_head/layers_0/kernel"][1],
    iou_depth=_count(shapes, path + r"iou_prediction_head/layers_(\d+)/"),
    num_multimask=tokens - 1,
    attention_downsample=width // key[1],
  )


def _seg_prompt(shapes, decoder):
  """No alignment for a published checkpoint: its attention was never saved."""
  aligned = any(path.startswith("seg_prompt/align/") for path in shapes)
  return SegPromptConfig(
    out_width=shapes["seg_prompt/text_fc2/kernel"][1],
    num_heads=decoder.num_heads,
    alignment="published" if aligned else "none",
  )
