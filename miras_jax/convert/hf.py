"""Hugging Face's `config.json` of a Llama, Mistral or Qwen2 <-> our LlamaConfig."""

import json

from miras_jax.config.model import LlamaConfig, RopeScaling
from miras_jax.errors import UserError
from miras_jax.logs import log

# Only these change numbers that the weights do not show.
_MODEL_TYPES = ("llama", "mistral", "qwen2")
# Trainers write their own; their decoder is a Llama.
_LLAMA_LIKE = ("llava", "llava_llama", "mini_gemini", "minigemini", "lisa", "miras")
# A `text_config` leaves out what is the default of transformers' LlamaConfig.
_DEFAULTS = {
  "hidden_size": 4096,
  "intermediate_size": 11_008,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "vocab_size": 32_000,
}
# Written as the source had it: they change no number of ours.
_KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
         "sliding_window")  # fmt: skip
_CLASSES = {
  "llama": "LlamaForCausalLM",
  "mistral": "MistralForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
}


def llama_config(settings, *, path, **lora):
  """LlamaConfig of the settings in `path`. Raises UserError naming a field."""
  settings = _text_part(settings)
  kind = str(settings.get("model_type", "llama"))
  if kind.lower() not in (*_MODEL_TYPES, *_LLAMA_LIKE):
    raise UserError(
      f"{path}: model_type {kind!r} is not one of {', '.join(_MODEL_TYPES)}"
    )
  if settings.get("hidden_act", "silu") != "silu":
    raise UserError(f"{path}: hidden_act {settings['hidden_act']!r}, want 'silu'")
  window = settings.get("sliding_window")
  if window and settings.get("use_sliding_window", kind == "mistral"):
    log.warning(
      "%s: sliding_window %s: attention is full here, a longer row will differ",
      path, window,
    )  # fmt: skip

  def whole(name, default=None):
    value = settings.get(name) or default
    if value is None:
      raise UserError(f"{path}: no field {name!r} in it")
    if type(value) is not int or value < 1:
      raise UserError(f"{path}: {name} is {value!r}, want a whole number")
    return value

  width, heads = whole("hidden_size"), whole("num_attention_heads")
  try:
    theta, scaling = _rope(settings, path)
    return LlamaConfig(
      width=width,
      mlp_width=whole("intermediate_size"),
      depth=whole("num_hidden_layers"),
      num_heads=heads,
      num_kv_heads=whole("num_key_value_heads", heads),
      head_dim=whole("head_dim", width // heads),
      vocab_size=whole("vocab_size"),
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=float(settings.get("rms_norm_eps", 1e-6)),
      qkv_bias=bool(settings.get("attention_bias", kind == "qwen2")),
      tie_embeddings=bool(settings.get("tie_word_embeddings", False)),
      **lora,
    )
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f"{path}: {error}") from None


def settings_of(cfg, *, dtype, source=None):
  """`config.json` that `AutoModelForCausalLM.from_pretrained` opens, as text.

  source: the settings that the weights came with, for what ours do not hold.
  """
  source = _text_part(source or {})
  kind = source.get("model_type")
  if kind not in _CLASSES or cfg.qkv_bias:
    kind = "qwen2" if cfg.qkv_bias else "llama"
  settings = {
    "architectures": [_CLASSES[kind]],
    "model_type": kind,
    "hidden_act": "silu",
    "hidden_size": cfg.width,
    "intermediate_size": cfg.mlp_width,
    "num_hidden_layers": cfg.depth,
    "num_attention_heads": cfg.num_heads,
    "num_key_value_heads": cfg.num_kv_heads,
    "head_dim": cfg.head_dim,
    "vocab_size": cfg.vocab_size,
    "rms_norm_eps": cfg.norm_eps,
    "rope_theta": cfg.rope_theta,
    "rope_scaling": _rope_settings(cfg.rope_scaling),
    "tie_word_embeddings": cfg.tie_embeddings,
    "max_position_embeddings": 4096,
    "torch_dtype": str(dtype),
    "use_cache": True,
  }
  settings |= {k: source[k] for k in _KEPT if k in source}
  return json.dumps(settings, indent=2) + "\n"


def _text_part(settings):
  """The language model's settings: LLaVA of Hugging Face nests them."""
  inner = settings.get("text_config")
  return _DEFAULTS | inner if isinstance(inner, dict) else settings


def _rope(settings, path):
  """(theta, RopeScaling or None); transformers 5 keeps both in `rope_parameters`."""
  scaling = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
  theta = scaling.get("rope_theta", settings.get("rope_theta", 10_000.0))
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  if kind == "default":
    return float(theta), None
  if kind not in ("linear", "llama3"):
    raise UserError(f"{path}: rope scaling {kind!r}; there are linear and llama3")
  names = ("low_freq_factor", "high_freq_factor")
  more = {k: float(scaling[k]) for k in names if k in scaling}
  if "original_max_position_embeddings" in scaling:
    more["original_max_positions"] = scaling["original_max_position_embeddings"]
  return float(theta), RopeScaling(kind=kind, factor=float(scaling["factor"]), **more)


def _rope_settings(scaling):
  if scaling is None:
    return None
  if scaling.kind == "linear":
    return {"rope_type": "linear", "factor": scaling.factor}
  return {
    "rope_type": scaling.kind,
    "factor": scaling.factor,
    "low_freq_factor": scaling.low_freq_factor,
    "high_freq_factor": scaling.high_freq_factor,
    "original_max_position_embeddings": scaling.original_max_positions,
  }
