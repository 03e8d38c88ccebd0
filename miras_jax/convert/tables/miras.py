"""MIRAS as published and as its training writes it; LLaVA-1.5, Mini-Gemini, LISA.

LISA, Mini-Gemini and LLaVA-1.5 use the same names for the parts they have.
"""

from miras_jax.convert.tables import clip, convnext, llama, sam
from miras_jax.convert.tables.mapping import Table
from miras_jax.convert.tables.rules import (
  Rule,
  join_thirds,
  linear,
  moved,
  norm,
  thirds,
)

# Two layers, or in LISA and the first LLaVA one.
_PROJECTOR = tuple(
  rule
  for theirs, ours in ((".0", "fc1"), (".2", "fc2"), ("", "linear"))
  for rule in linear(f"model.mm_projector{theirs}", f"projector/{ours}")
)
_MINING = tuple(
  rule
  for theirs, ours in (("query", "query"), ("aux", "key"), ("val", "value"))
  for rule in (
    *norm(f"model.vlm_uni_{theirs}_projector.0", f"mining/{ours}_norm"),
    *linear(f"model.vlm_uni_{theirs}_projector.1", f"mining/{ours}_proj"),
  )
)
_TEXT = (
  *linear("model.text_hidden_fcs.0.0", "seg_prompt/text_fc1"),
  *linear("model.text_hidden_fcs.0.2", "seg_prompt/text_fc2"),
)

# torch's MultiheadAttention. The published code draws it anew in every pass and saves
# it nowhere: below `model.` the name `obj_cross_attention` is ours.
_ALIGN = "seg_prompt/align/"
_QKV = tuple(f"{_ALIGN}{p}_proj/" for p in "qkv")
ALIGN_RULES = (
  Rule(
    "multihead_attn.in_proj_weight",
    tuple(q + "kernel" for q in _QKV),
    thirds,
    join_thirds,
  ),
  Rule(
    "multihead_attn.in_proj_bias", tuple(q + "bias" for q in _QKV), thirds, join_thirds
  ),
  *linear("multihead_attn.out_proj", _ALIGN + "out_proj"),
  *linear("linear", _ALIGN + "linear"),
)
ALIGN = Table(ALIGN_RULES, prefixes=("", "obj_cross_attention."))

CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
RULES = (
  *llama.RULES,
  *moved(clip.RULES, src=("", CLIP_PREFIX)),
  *moved(convnext.TOWER_RULES, src=("", "model.vision_tower_aux.")),
  *_MINING,
  *_PROJECTOR,
  *_TEXT,
  *moved(ALIGN_RULES, src=("", "model.obj_cross_attention.")),
  *moved(sam.RULES, src=("", "model.visual_model.")),
)
IGNORED = (
  *llama.IGNORED,
  r"model\.vision_tower\..*\.position_ids",
  r"model\.visual_model\.pixel_(mean|std)",
)
# PEFT's spellings in its newer versions, and of modules that train beside the adapters.
_ALIASES = ((r"\.base_layer\.", "."), (r"\.modules_to_save(\.default)?\.", "."))
_COPIES = r".*\.original_module\..*"  # what modules_to_save replaces
_WRAPPERS = ("base_model.model.", "module.base_model.model.", "module.", "")


def _table(suffix, prefixes):
  rules = (*RULES, *llama.lora_rules(suffix))
  return Table(rules, prefixes=prefixes, ignored=(*IGNORED, _COPIES), aliases=_ALIASES)


# Merged, training and DeepSpeed files are read alike; they are written differently.
MIRAS = _table(".default", ("", *_WRAPPERS[:-1]))
TRAINING = _table(".default", _WRAPPERS)
PEFT = _table("", _WRAPPERS)

# LLaVA-1.5 as Hugging Face converted it.
LLAVA_HF = Table(
  (
    *moved(llama.RULES[:-1], src=("model.", "language_model.model.")),
    llama.RULES[-1]._replace(src="language_model.lm_head.weight"),
    *moved(clip.RULES, src=("", "vision_tower.vision_model.")),
    *linear("multi_modal_projector.linear_{n:1|2}", "projector/fc{n}"),
  ),
  ignored=(
    r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"vision_tower\..*\.position_ids",
  ),
  # transformers 5 writes the tower without `vision_model.`, and may put `model.` first.
  aliases=(
    (r"^model\.(?=(language_model|vision_tower|multi_modal_projector)\.)", ""),
    (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
  ),
)
