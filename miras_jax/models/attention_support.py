"""Whether these devices can run a decoder's attention as its config wants it."""

import math

from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.models.attention import PLATFORM, attention_for

FIELD = "model.overrides.llama.attention"


def check(llama, tensor, platform, dtype="bfloat16") -> None:
  """Raises UserError unless they can; a warning where they would only crawl.

  llama: LlamaConfig. tensor: size of that mesh axis. platform: "cpu", "gpu", "tpu".
  dtype: the config's `model.dtype`.
  """
  _check_heads(llama, tensor)
  _check_platform(llama.attention, platform)
  found = attention_for(llama.attention, platform)
  if attention_for(llama.attention, platform, dtype) != found:
    raise UserError(
      f"attention={llama.attention!r} takes half precision, model.dtype={dtype}; set"
      f" --config.model.dtype=bfloat16 or --config.{FIELD}=xla"
    )


def _check_heads(llama, tensor):
  heads = llama.num_kv_heads
  if llama.attention == "splash" and heads % tensor:
    raise UserError(
      f"mesh.tensor={tensor} does not divide the {heads} key heads, which"
      f" attention='splash' needs; set mesh.tensor={math.gcd(heads, tensor)}, or"
      f" {FIELD}=xla"
    )


def _check_platform(attention, platform):
  if attention_for(attention, platform) == attention:
    return
  made_for = f"attention={attention!r} is made for {PLATFORM[attention].upper()}"
  if (attention, platform) == ("splash", "cpu"):
    log.warning("%s; on a CPU its kernels are interpreted, which is slow", made_for)
    return
  usual = next((name for name, home in PLATFORM.items() if home == platform), "xla")
  raise UserError(
    f"{made_for}, these devices are {platform.upper()}; set --config.{FIELD}={usual}"
  )
