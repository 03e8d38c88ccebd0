"""What the settings beside a CLIP tower say that its weights do not show."""

from typing import NamedTuple

from miras_jax.config.model import CLIP_ACTIVATIONS
from miras_jax.errors import UserError

HOLDER = "clip/patch_embed/kernel"


class ClipSettings(NamedTuple):
  """`heads`: None where nothing is said. The rest is OpenAI's by default."""

  heads: int | None = None
  activation: str = "quick_gelu"
  norm_eps: float = 1e-5


def read(sources):
  """ClipSettings of the source that holds the tower. UserError naming a setting."""
  for source in sources:
    keys = (key for key in source.infos if source.table.knows(key))
    if any(HOLDER == p.path for key in keys for p in source.table.places(key)):
      return _of_source(source)
  return ClipSettings()


def _of_source(source):
  nested = source.settings.get("vision_config")
  vision = nested if isinstance(nested, dict) else source.settings
  if isinstance(nested, dict) or "patch_size" in vision:
    return _of_hugging_face(vision, source.folder / "config.json")
  return _of_openclip(source.openclip, source.folder / "open_clip_config.json")


def _of_hugging_face(vision, path):
  """Of `CLIPVisionConfig`, whose defaults are those of ClipSettings."""
  heads, eps = vision.get("num_attention_heads"), vision.get("layer_norm_eps", 1e-5)
  if heads is not None and (type(heads) is not int or heads < 1):
    raise UserError(f"{path}: num_attention_heads is {heads!r}, want a whole number")
  if type(eps) is not float:
    raise UserError(f"{path}: layer_norm_eps is {eps!r}, want a small number")
  if (activation := vision.get("hidden_act", "quick_gelu")) not in CLIP_ACTIVATIONS:
    raise UserError(
      f"{path}: hidden_act {activation!r} of CLIP, want one of"
      f" {', '.join(CLIP_ACTIVATIONS)}"
    )
  return ClipSettings(
    heads if "patch_size" in vision else None, activation=activation, norm_eps=eps
  )


def _of_openclip(settings, path):
  """Of `open_clip_config.json`: its towers have the exact GELU unless they say so."""
  model = settings.get("model_cfg")
  if not isinstance(model, dict):
    return ClipSettings()
  quick = model.get("quick_gelu", False)
  if type(quick) is not bool:
    raise UserError(f"{path}: quick_gelu is {quick!r}, want true or false")
  return ClipSettings(activation="quick_gelu" if quick else "gelu")
