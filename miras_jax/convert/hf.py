"""Hugging Face's `config.json` of a decoder <-> our LlamaConfig.

What differs between families is in config/families/.
"""

import json

from miras_jax.config.families import FAMILIES, family_of
from miras_jax.config.model import LlamaConfig, RopeScaling, most
from miras_jax.errors import UserError
from miras_jax.logs import log

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
SIZES = {"num_hidden_layers": "depth", "vocab_size": "vocab_size"}
# Written as the source had it: they change no number of ours.
_KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
         "sliding_window")  # fmt: skip
_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def llama_config(settings, *, path, **lora):
  """LlamaConfig of the settings in `path`. Raises UserError naming a field."""
  settings = _text_part(settings)
  family = _family(settings, path)
  settings = family.defaults | settings
  _check_computed(family, settings, path)

  def whole(name, default=None):
    value = settings.get(name) or default
    if value is None:
      raise UserError(f"{path}: no field {name!r} in it")
    if type(value) is not int or value < 1:
      raise UserError(f"{path}: {name} is {value!r}, want a whole number")
    if value > (limit := most(SIZES.get(name, ""))):
      raise UserError(f"{path}: {name} is {value:,}, want at most {limit:,}")
    return value

  width, heads = whole("hidden_size"), whole("num_attention_heads")
  features = family.all_features
  if "attention_bias" in settings:
    features["qkv_bias"] = bool(settings["attention_bias"])
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
      tie_embeddings=is_tied(settings),
      **features,
      **lora,
    )
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(f"{path}: {error}") from None


def is_tied(settings):
  """Whether these settings say, or leave unsaid, that the head is the embedding."""
  settings = _text_part(settings)
  family = FAMILIES.get(str(settings.get("model_type", "")).lower())
  default = family.defaults.get("tie_word_embeddings", False) if family else False
  return bool(settings.get("tie_word_embeddings", default))


def settings_of(cfg, *, dtype, source=None):
  """`config.json` that `AutoModelForCausalLM.from_pretrained` opens, as text.

  source: the settings that the weights came with, for what ours do not hold. Raises
  UserError when no published family computes what `cfg` says.
  """
  source = _text_part(source or {})
  try:
    family = family_of(cfg, source.get("model_type"))
  except ValueError as error:
    raise UserError(f"no config.json can be written: {error}") from None
  settings = {
    "architectures": [family.architecture],
    "model_type": family.name,
    "hidden_act": _ACTIVATIONS[cfg.activation],
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
  settings |= {k: v for k, v in family.defaults.items() if k not in settings}
  settings |= {k: source[k] for k in _KEPT if k in source}
  return json.dumps(settings, indent=2) + "\n"


def _family(settings, path):
  """The Family of some settings. UserError for a `model_type` that there is not."""
  kind = str(settings.get("model_type", "llama"))
  if kind.lower() in _LLAMA_LIKE:
    return FAMILIES["llama"]
  if kind.lower() not in FAMILIES:
    raise UserError(f"{path}: model_type {kind!r} is not one of {', '.join(FAMILIES)}")
  return FAMILIES[kind.lower()]


def _check_computed(family, settings, path):
  """UserError for another activation; a warning for a window, which we do not have."""
  want = _ACTIVATIONS[family.all_features["activation"]]
  name = "hidden_activation" if settings.get("hidden_activation") else "hidden_act"
  if settings.get(name, want) not in (want, *family.activations):
    raise UserError(f"{path}: {name} {settings[name]!r}, want {want!r}")
  window = settings.get("sliding_window")
  if window and settings.get("use_sliding_window", family.windowed):
    log.warning(
      "%s: sliding_window %s: attention is full here, a longer row will differ",
      path, window,
    )  # fmt: skip


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
