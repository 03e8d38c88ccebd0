"""FLOPs of the segmentation state of one row, of a forward pass.

M masks, as many slots; C SAM width, D decoder width, N image tokens, G SAM's grid.
"""

from input_pipeline.slots.fill import ORIGINS
from input_pipeline.slots.relations import RELATIONS
from miras_jax.models.state.encode import OCTAVES


def parts(cfg, masks) -> list[tuple[str, float, bool]]:
  """(path, FLOPs, whether it is a product of two activations)."""
  tokens = _tokens(cfg, masks) if cfg.slot_tokens else []
  return tokens + (_dense(cfg, masks) if cfg.has_dense_state else [])


def _tokens(cfg, M):
  """Of the tokens of M masks; the decoder counts them as it does all tokens."""
  C, D = cfg.sam_decoder.width, cfg.llama.width
  G2, N = cfg.sam_encoder.grid**2, cfg.num_image_tokens
  code = 4 * 2 * OCTAVES + 1 + len(ORIGINS)
  return [
    ("state_tokens/means", 4 * M * (N * D + G2 * C), True),
    ("state_tokens/look/kernel", 2 * M * 2 * C * D, False),
    ("state_tokens/place/kernel", 2 * M * code * D, False),
    ("state_tokens/again/kernel", 2 * M * D * C, False),
  ]


def _dense(cfg, masks):
  C, D = cfg.sam_decoder.width, cfg.llama.width
  G2, N, M, R = cfg.sam_encoder.grid**2, cfg.num_image_tokens, masks, len(RELATIONS)
  known = 2 * D + 2 * C + 8 * OCTAVES + 1 + len(ORIGINS)
  encoder = 2 * M * (known * 2 * C + 2 * C * C)
  heads = 2 * M * (2 * D * C + 4 * C * C + R * C) + 2 * M * M * C * R
  means = 4 * M * (N * D + G2 * C)
  chosen = 2 * M * M * C * (2 + R)
  moved = 2 * M * M * G2 * C
  return [
    ("state/encoder/fc1/kernel", encoder + heads, False),
    ("state/means", means + chosen + moved, True),
    ("sam/prompt_encoder/mask_downscaling/kernel", _downscaling(cfg, M), False),
  ]


def _downscaling(cfg, slots):
  """Two convolutions of 2 x 2 cells and a linear layer."""
  c, C = cfg.sam_decoder.mask_channels, cfg.sam_decoder.width
  G2 = cfg.sam_encoder.grid**2
  return 2 * slots * G2 * (4 * 4 * c // 4 + 4 * c // 4 * c + c * C)
