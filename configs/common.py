"""What configs share: option parsing, and what both published stages have in common."""

import difflib

from ml_collections import ConfigDict

from miras_jax.config.run import base_config
from miras_jax.config.variants import VARIANTS
from miras_jax.errors import UserError

__all__ = ["base_config", "lora_config", "parse"]


def parse(arg, **defaults) -> dict:
  """ "size=tiny,n=3" over `defaults` -> dict; values take their default's type.

  Raises UserError for an unknown option or a value of another type.
  """
  options = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    name, equals, text = item.partition("=")
    if name not in defaults:
      close = difflib.get_close_matches(name, defaults, n=1, cutoff=0.0)
      hint = f"did you mean {close[0]!r}?" if close else "this config takes none"
      raise UserError(f"unknown config option {name!r}; {hint}")
    kind = type(defaults[name])
    if kind is bool and not equals:
      text = "true"
    try:
      options[name] = _BOOLS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
      raise UserError(
        f"config option {name}={text!r}: want {kind.__name__},"
        f" e.g. {name}={defaults[name]}"
      ) from None
  return options


_BOOLS = {"true": True, "1": True, "false": False, "0": False}


# Side of the loss canvas where it is not 256: it divides the SAM canvas.
LOSS_SIDE = 256


def lora_config(size, attention) -> ConfigDict:
  """What both published stages share: LoRA on q and v, trained heads, batch 8 x 10.

  From size 1b on: bfloat16, everything rematerialised, weights sharded over all devices
  (`mesh.data=-1 mesh.fsdp=1` is faster where the frozen weights fit whole).
  """
  if size not in VARIANTS:
    raise UserError(f"config option size={size!r}: there are {', '.join(VARIANTS)}")
  canvas = VARIANTS[size].sam_encoder.image_size
  large = canvas > 2 * LOSS_SIDE
  c = base_config()
  c.model.variant = size
  lora = dict(lora_rank=8, lora_alpha=16.0, lora_dropout=0.05)
  c.model.overrides = {"llama": lora}
  c.loss.loss_resolution = min(canvas // 2, LOSS_SIDE)
  c.trainable = "lora_heads"
  c.optim.update(name="adamw", lr=3e-4, warmup_steps=100, b1=0.9, b2=0.95)
  c.optim.update(weight_decay=0.0, clip_norm=1.0, schedule="linear", accumulation=10)
  c.batch_size = 8 * c.optim.accumulation
  if large:
    c.model.dtype = "bfloat16"
    c.model.overrides.llama.update(remat="full", attention=attention)
    c.mesh.update(data=1, fsdp=-1)
    c.data.threads = 8
  return c
