"""The decoder under Hugging Face names, every family in one table; LoRA."""

from miras_jax.config.families import FAMILIES
from miras_jax.convert.tables.mapping import Table
from miras_jax.convert.tables.rules import Rule, swap

_LAYER, _OURS = "model.layers.{i}.", "llm/layers/"
_PROJECTIONS = (
  (_LAYER + "self_attn.{p:q|k|v|o}_proj.", _OURS + "attn/{p}_proj/"),
  (_LAYER + "mlp.{p:gate|up|down}_proj.", _OURS + "mlp/{p}_proj/"),
)


def rules(families):
  """Every tensor of these families. A name that two of them have is the same to both;
  the head comes last."""
  keys = dict.fromkeys(pair for f in families for pair in f.layer_keys)
  return (
    Rule("model.embed_tokens.weight", "llm/embed/embedding"),
    *(Rule(a + "weight", b + "kernel[{i}]", swap, swap) for a, b in _PROJECTIONS),
    Rule(_LAYER + "self_attn.{p:q|k|v}_proj.bias", _OURS + "attn/{p}_proj/bias[{i}]"),
    Rule(_LAYER + "input_layernorm.weight", _OURS + "input_norm/scale[{i}]"),
    Rule(
      _LAYER + "post_attention_layernorm.weight", _OURS + "post_attn_norm/scale[{i}]"
    ),
    *(Rule(_LAYER + theirs, f"{_OURS}{ours}[{{i}}]") for theirs, ours in keys),
    Rule("model.norm.weight", "llm/final_norm/scale"),
    Rule("lm_head.weight", "llm/lm_head/kernel", swap, swap),
  )


RULES = rules(FAMILIES.values())
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

HF = Table(RULES, ignored=IGNORED)
# A model whose head is its embedding may store it twice.
HF_TIED = Table(RULES[:-1], ignored=(*IGNORED, r"lm_head\.weight"))


def lora_rules(suffix):
  """Adapters of the projections; `suffix` is ".default" in a training checkpoint and
  "" in PEFT's adapter files."""
  return tuple(
    Rule(f"{a}lora_{x}{suffix}.weight", f"{b}lora_{x.lower()}[{{i}}]", swap, swap)
    for a, b in _PROJECTIONS
    for x in "AB"
  )
