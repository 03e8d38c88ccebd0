"""What one family of decoders is, as data; `families/` has a file for each.

The decoder (models/llama.py) is one: a family chooses among its features, and says how
its published files are called. So a new family is a new file there and a row in
`families.FAMILIES`, unless it computes something that LlamaConfig has no feature for.
"""

import dataclasses
from collections.abc import Mapping

from miras_jax.config.model import LlamaConfig

# Fields of LlamaConfig that tell families apart. Sizes, rotary base and the norm's
# epsilon are every family's own business; the rest is how a decoder is run.
FEATURES = ("qkv_bias", "qk_norm", "activation", "norm_offset", "embed_scale")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One family.

  name          `model_type` of its config.json, and `--from=NAME`
  architecture  its class in transformers
  features      {LlamaConfig field of FEATURES: value}; the others are LlamaConfig's own
  defaults      {setting: value} that a config.json may leave out, as transformers does
  activations   further names that a config.json may call the activation by
  layer_keys    (published, ours) names of a layer's vectors, beyond those of Llama
  windowed      `sliding_window` counts unless `use_sliding_window` says it does not
  variants      {name: LlamaConfig}: published sizes
  """

  name: str
  architecture: str
  features: Mapping = dataclasses.field(default_factory=dict)
  defaults: Mapping = dataclasses.field(default_factory=dict)
  activations: tuple[str, ...] = ()
  layer_keys: tuple[tuple[str, str], ...] = ()
  windowed: bool = False
  variants: Mapping = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if unknown := sorted(set(self.features) - set(FEATURES)):
      raise ValueError(f"family {self.name!r}: {unknown[0]!r} is not in {FEATURES}")
    for name, cfg in self.variants.items():
      if not self.holds(cfg):
        raise ValueError(f"variant {name!r} has other features than {self.name!r}")

  @property
  def all_features(self):
    """{field: value} of every one of FEATURES."""
    plain = {f.name: f.default for f in dataclasses.fields(LlamaConfig)}
    return {name: plain[name] for name in FEATURES} | dict(self.features)

  def holds(self, cfg):
    """Whether a decoder with this LlamaConfig is of this family."""
    return all(getattr(cfg, k) == value for k, value in self.all_features.items())


def sizes(width, mlp_width, depth, num_heads, num_kv_heads=None, **kwargs):
  """LlamaConfig with the usual head width and the vocabulary of Llama 2."""
  return LlamaConfig(
    width=width,
    mlp_width=mlp_width,
    depth=depth,
    num_heads=num_heads,
    num_kv_heads=num_kv_heads or num_heads,
    head_dim=kwargs.pop("head_dim", width // num_heads),
    vocab_size=kwargs.pop("vocab_size", 32_000),
    **kwargs,
  )
