"""ConvNeXt tower: timm names, as OpenCLIP stores them, and Mini-Gemini's below them."""

from miras_jax.convert.tables.mapping import Table
from miras_jax.convert.tables.rules import Rule, conv, linear, moved, norm

_STAGE, _OURS = "stages.{s}.", "convnext/stage_{s}/"
_BLOCK, _OUR_BLOCK = _STAGE + "blocks.{i}.", _OURS + "block_{i:02}/"
RULES = (
  *conv("stem.0", "convnext/stem/conv"),
  *norm("stem.1", "convnext/stem/norm"),
  *norm(_STAGE + "downsample.0", _OURS + "downsample/norm"),
  *conv(_STAGE + "downsample.1", _OURS + "downsample/conv"),
  *conv(_BLOCK + "conv_dw", _OUR_BLOCK + "dwconv"),
  *norm(_BLOCK + "norm", _OUR_BLOCK + "norm"),
  *linear(_BLOCK + "mlp.fc{n:1|2}", _OUR_BLOCK + "fc{n}"),
  Rule(_BLOCK + "gamma", _OUR_BLOCK + "gamma"),
)
# As Mini-Gemini and MIRAS hold the trunk of the OpenCLIP tower.
TOWER_RULES = tuple(
  rule
  for old, new in (("stem.", "vision_stem."), ("stages.", "vision_stages."))
  for rule in moved([r for r in RULES if r.src.startswith(old)], src=(old, new))
)

OPENCLIP = Table(
  RULES,
  prefixes=("visual.trunk.", "trunk.", ""),
  ignored=(
    r"norm_pre\..*",
    r"(visual\.)?head\..*",
    r"text\..*",
    r"transformer\.resblocks\..*",
    r"token_embedding\.weight",
    r"positional_embedding",
    r"ln_final\..*",
    r"attn_mask",
    r"text_projection(\.weight)?",
    r"logit_scale",
    r"logit_bias",
  ),
)
