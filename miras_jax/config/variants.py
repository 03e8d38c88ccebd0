"""The VARIANTS table: published and small sizes of the model and of its parts.

Sizes of the decoder stand with its family, in families/.
"""

from miras_jax.config import families
from miras_jax.config.family import sizes
from miras_jax.config.model import (
  ClipConfig,
  ConvNextConfig,
  MirasConfig,
  SamDecoderConfig,
  SamEncoderConfig,
  SegPromptConfig,
)


def _sam(width, depth, num_heads, global_layers):
  return SamEncoderConfig(
    image_size=1024,
    patch_size=16,
    width=width,
    depth=depth,
    num_heads=num_heads,
    global_layers=global_layers,
    window_size=14,
    out_width=256,
    scan_blocks=True,
  )


SAM_VARIANTS = {
  "vit_b": _sam(768, 12, 12, (2, 5, 8, 11)),
  "vit_l": _sam(1024, 24, 16, (5, 11, 17, 23)),
  "vit_h": _sam(1280, 32, 16, (7, 15, 23, 31)),
}


LLAMA_VARIANTS = families.variants()
CLIP_L_336 = ClipConfig(
  width=1024,
  mlp_width=4096,
  depth=24,
  num_heads=16,
  image_size=336,
  patch_size=14,
  scan_blocks=True,
)
CONVNEXT_L_768 = ConvNextConfig(
  dims=(192, 384, 768, 1536),
  depths=(3, 3, 27, 3),
  image_size=768,
  target_grid=48,
  scan_blocks=True,
)
SAM_DECODER = SamDecoderConfig(
  width=256, depth=2, mlp_width=2048, num_heads=8, mask_channels=16, iou_width=256
)


def _full(llama):
  """Published encoders around one decoder shape."""
  return MirasConfig(
    clip=CLIP_L_336,
    convnext=CONVNEXT_L_768,
    llama=LLAMA_VARIANTS[llama],
    sam_encoder=SAM_VARIANTS["vit_h"],
    sam_decoder=SAM_DECODER,
    seg_prompt=SegPromptConfig(out_width=256),
  )


TINY = MirasConfig(
  clip=ClipConfig(
    width=48, mlp_width=96, depth=3, num_heads=4, image_size=32, patch_size=8
  ),
  convnext=ConvNextConfig(
    dims=(8, 16, 24, 32),
    depths=(1, 1, 1, 1),
    image_size=64,
    target_grid=8,
    layer_scale_init=0.1,
  ),
  llama=sizes(64, 192, 2, 2, vocab_size=512, attention="blocked", scan_unroll=2),
  sam_encoder=SamEncoderConfig(
    image_size=64,
    patch_size=8,
    width=64,
    depth=3,
    num_heads=4,
    global_layers=(2,),
    window_size=4,
    out_width=64,
  ),
  sam_decoder=SamDecoderConfig(
    width=64, depth=2, mlp_width=128, num_heads=4, mask_channels=16, iou_width=64
  ),
  seg_prompt=SegPromptConfig(out_width=64, num_heads=4),
)

SMALL = MirasConfig(
  clip=ClipConfig(
    width=256, mlp_width=1024, depth=6, num_heads=8, image_size=112, patch_size=14
  ),
  convnext=ConvNextConfig(
    dims=(32, 64, 128, 256),
    depths=(2, 2, 6, 2),
    image_size=256,
    target_grid=16,
    layer_scale_init=0.1,
  ),
  llama=sizes(384, 1024, 8, 6, vocab_size=2048),
  sam_encoder=SamEncoderConfig(
    image_size=256,
    patch_size=16,
    width=256,
    depth=6,
    num_heads=8,
    global_layers=(2, 5),
    window_size=7,
    out_width=128,
  ),
  sam_decoder=SamDecoderConfig(
    width=128, depth=2, mlp_width=512, num_heads=8, mask_channels=16, iou_width=128
  ),
  seg_prompt=SegPromptConfig(out_width=128, num_heads=8),
)

VARIANTS = {
  "tiny": TINY,
  "small": SMALL,
  "1b": _full("tinyllama-1.1b"),
  "7b": _full("llama2-7b"),
  "13b": _full("llama2-13b"),
  "34b": _full("yi-34b"),
  "70b": _full("llama2-70b"),
}
