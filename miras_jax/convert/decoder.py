"""The decoder's LlamaConfig, read off settings and shapes.

What neither shows, and published sizes of the same shapes do not agree on, is asked for
by name: a guess would be a model that runs and is wrong.
"""

import dataclasses
import json
import math
import re

from miras_jax.config import families
from miras_jax.convert import hf
from miras_jax.convert.overlay import EMBED, HEAD, holders
from miras_jax.errors import UserError

_PROJECTION = re.compile(r"llm/layers/\w+/(\w+_proj)/lora_a$")
# Fields that no shape shows.
HIDDEN = ("rope_theta", "rope_scaling", "norm_eps", "activation", "norm_offset",
          "embed_scale")  # fmt: skip
# Rows that a tokenizer's added tokens and padding put behind a vocabulary.
MAX_ADDED = 256


def llama_config(sources, shapes, base, overrides):
  """From the settings beside the decoder; without them a published shape that fits.

  overrides: {"llama.FIELD": value} that are not asked for. Raises UserError.
  """
  held = holders(sources, EMBED)
  lora = _lora(sources, shapes, overrides)
  if not held:
    return dataclasses.replace(base, **lora)
  holder, _ = held[0]
  if holder.settings:
    cfg = hf.llama_config(holder.settings, path=holder.folder / "config.json", **lora)
  else:
    cfg = of_shapes(shapes, base, overrides, where=holder.folder)
    cfg = dataclasses.replace(cfg, **lora)
  if HEAD in shapes:  # one that differs from the embedding: see overlay.settle_head
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
  return dataclasses.replace(cfg, vocab_size=shapes[EMBED][0])


def of_shapes(shapes, base, overrides=(), *, where="the weights"):
  """A published size of these shapes; else what they say, where they say all of it.

  Equal shapes are told apart by their vocabulary, which added tokens make a bit larger.
  Where a size fits but for a leaf, it is taken: what is missing is then named. Raises
  UserError where several sizes fit and what differs is not in `overrides`.
  """
  shape = shapes["llm/layers/mlp/gate_proj/kernel"]
  near = [
    v for v in families.variants().values() if (v.depth, v.width, v.mlp_width) == shape
  ]
  fits = [v for v in near if _has_shapes(v, shapes)]
  if not fits and (found := _of_head_norms(shapes)):
    return found
  rows = shapes[EMBED][0]
  if len(fits) > 1:
    added = {cfg: rows - cfg.vocab_size for cfg in fits}
    close = [cfg for cfg in fits if 0 <= added[cfg] <= MAX_ADDED]
    fits = [cfg for cfg in close if added[cfg] == min(map(added.get, close))] or fits
    _ask(fits, overrides, where)
  return min(fits or near, key=lambda cfg: abs(cfg.vocab_size - rows), default=base)


def _ask(fits, overrides, where):
  """UserError naming a field on which sizes that fit differ, unless it is given."""
  names = {cfg: name for name, cfg in families.variants().items()}
  for field in HIDDEN:
    values = dict.fromkeys(getattr(cfg, field) for cfg in fits)
    given = any(f"{name}.".startswith(f"llama.{field}.") for name in overrides)
    if len(values) > 1 and not given:
      choices = (
        f"--set='llama.{field}={_text(value)}' as"
        f" {', '.join(names[c] for c in fits if getattr(c, field) == value)}"
        for value in values
      )
      raise UserError(
        f"{where}: no config.json, and these shapes do not show llama.{field}: say"
        f" {'; or '.join(choices)}; or put the config.json of these weights there"
      )


def _text(value):
  """A field's value as `--set` reads it."""
  if value is None:
    return "none"
  if dataclasses.is_dataclass(value):
    return json.dumps(dataclasses.asdict(value))
  return value if isinstance(value, str) else json.dumps(value)


def _has_shapes(cfg, shapes):
  """Whether attention and head have the leaves and shapes that `cfg` gives them."""
  attn = "llm/layers/attn/"
  want = {
    f"{attn}q_proj/kernel": (cfg.depth, cfg.width, cfg.num_heads * cfg.head_dim),
    f"{attn}k_proj/kernel": (cfg.depth, cfg.width, cfg.num_kv_heads * cfg.head_dim),
  }
  return (
    all(shapes.get(path) == shape for path, shape in want.items())
    and (f"{attn}q_proj/bias" in shapes) == cfg.qkv_bias
    and (f"{attn}q_norm/scale" in shapes) == cfg.qk_norm
    and ("llm/lm_head/kernel" not in shapes) == cfg.tie_embeddings
  )


def _of_head_norms(shapes):
  """LlamaConfig of any size whose heads are normed, which shows their width; or None.

  What no shape shows (rotary base, epsilon) is that of the family's first size.
  """
  attn = "llm/layers/attn/"
  scale = shapes.get(f"{attn}q_norm/scale")
  first = next((v for v in families.variants().values() if v.qk_norm), None)
  if scale is None or first is None:
    return None
  depth, width, mlp_width = shapes["llm/layers/mlp/gate_proj/kernel"]
  query, key = (shapes[f"{attn}{p}_proj/kernel"][2] for p in "qk")
  return dataclasses.replace(
    first,
    width=width,
    mlp_width=mlp_width,
    depth=depth,
    num_heads=query // scale[1],
    num_kv_heads=key // scale[1],
    head_dim=scale[1],
    qkv_bias=f"{attn}q_proj/bias" in shapes,
    tie_embeddings="llm/lm_head/kernel" not in shapes,
  )


def _lora(sources, shapes, overrides):
  """LoRA fields of LlamaConfig, {} without adapters."""
  ranks = {k: s[-1] for k, s in shapes.items() if _PROJECTION.match(k)}
  if not ranks:
    return {}
  adapter = {}
  for source in sources:
    if source.adapter.get("alpha_pattern"):
      raise UserError(
        f"{source.folder / 'adapter_config.json'}: alpha_pattern"
        f" {source.adapter['alpha_pattern']}, want one lora_alpha for all projections"
      )
    adapter |= source.adapter
  rank = adapter.get("r", next(iter(ranks.values())))
  if type(rank) is not int or rank < 1:
    raise UserError(f"adapter_config.json: r is {rank!r}, want a whole number")
  alpha = _alpha(adapter, overrides)
  if adapter.get("use_rslora"):  # scaled by alpha / sqrt(r); ours is alpha / r
    alpha *= math.sqrt(rank)
  return {
    "lora_rank": rank,
    "lora_alpha": alpha,
    "lora_dropout": float(adapter.get("lora_dropout", 0.0)),
    "lora_targets": tuple(sorted({_PROJECTION.match(k)[1] for k in ranks})),
  }


def _alpha(adapter, overrides):
  """lora_alpha; UserError without one: weights do not show it."""
  alpha = adapter.get("lora_alpha", overrides.get("llama.lora_alpha"))
  if type(alpha) not in (int, float):
    raise UserError(
      f"lora_alpha of the adapters is {alpha!r}: want a number in the"
      " adapter_config.json beside them, or --set=llama.lora_alpha=16 as MIRAS and LISA"
      " were trained"
    )
  return float(alpha)
