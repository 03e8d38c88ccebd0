"""Every family of decoders by its name: one file and one row here each.

The first family that fits is taken where files do not name one, so plain ones come
first.
"""

from miras_jax.config.families import gemma, llama, mistral, qwen2, qwen3
from miras_jax.config.family import FEATURES

FAMILIES = {
  module.FAMILY.name: module.FAMILY for module in (llama, mistral, qwen2, qwen3, gemma)
}


def variants():
  """{name: LlamaConfig} of every family's published sizes."""
  return {k: v for family in FAMILIES.values() for k, v in family.variants.items()}


def family_of(cfg, name=None):
  """The family of a LlamaConfig: `name` if that holds it, else the first that does.

  Raises ValueError when none does.
  """
  named = [FAMILIES[name]] if name in FAMILIES else []
  for family in (*named, *FAMILIES.values()):
    if family.holds(cfg):
      return family
  found = ", ".join(f"{name}={getattr(cfg, name)!r}" for name in FEATURES)
  raise ValueError(f"no family among {', '.join(FAMILIES)} has {found}")
