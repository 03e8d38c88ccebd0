"""The tables: every published name has one place, and the way back is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import TINY, VARIANTS
from miras_jax.convert.tables import miras
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.convert.tables.mapping import Table, convert, export, plan, shapes_of
from miras_jax.convert.tables.rules import Rule, swap
from miras_jax.errors import UserError
from miras_jax.models.miras import init_params
from miras_jax.parity.folder import Folder, miras_config
from tests.shared_data import GOLDEN, needs_golden

EVERYTHING = {
  "llama.qkv_bias": True,
  "llama.qk_norm": True,
  "llama.lora_rank": 2,
  "seg_prompt.alignment": "published",
  "llama.lora_targets": ("q_proj", "o_proj", "up_proj"),
}
SMALL = with_overrides(
  TINY,
  {
    **EVERYTHING,
    "llama.num_heads": 4,
    "llama.head_dim": 16,
    "llama.num_kv_heads": 2,
    "llama.depth": 3,
    "llama.vocab_size": 20,
  },
)
# The leaves of a whole model that a kind has names for: what they begin with, and what
# keeps a leaf out.
PARTS = {
  "llama": (("llm/",), "lora_"),
  "clip": (("clip/",), None),
  "clip-openai": (("clip/",), None),
  "convnext": (("convnext/",), None),
  "sam": (("sam/",), None),
  "sam-hf": (("sam/",), None),
  "llava-hf": (("clip/", "llm/", "projector/"), "lora_"),
  "miras": (("",), None),
  "miras-training": (("",), None),
  "peft": (("",), None),
}


@functools.cache
def shapes(cfg):
  tree = jax.eval_shape(lambda rng: init_params(cfg, rng), jax.random.key(0))
  return shapes_of(tree)


def part(kind, cfg):
  """{path: shape} of what `kind` names."""
  beginnings, without = PARTS[kind]
  return {
    path: shape
    for path, shape in shapes(cfg).items()
    if path.startswith(beginnings) and not (without and without in path)
  }


@functools.cache
def params(kind, dtype=np.float32):
  rng = np.random.default_rng(0)
  flat = {
    path: rng.normal(size=shape).astype(dtype)
    for path, shape in part(kind, SMALL).items()
  }
  return unflatten_dict(flat, sep="/")


def assert_identical(found, wanted):
  """The same keys, dtypes and bits."""
  assert sorted(found) == sorted(wanted)
  for key, want in wanted.items():
    assert found[key].dtype == want.dtype and found[key].shape == want.shape, key
    assert found[key].tobytes() == np.ascontiguousarray(want).tobytes(), key


# Both directions


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", PARTS)
def test_out_and_in_again_is_bit_identical(kind, dtype):
  ours = params(kind, jnp.dtype(dtype))
  published = export(ours, KINDS[kind])
  back = convert(published, KINDS[kind], part(kind, SMALL))
  assert_identical(flatten_dict(back, sep="/"), flatten_dict(ours, sep="/"))
  assert_identical(export(back, KINDS[kind]), published)


@needs_golden
def test_the_published_checkpoint_goes_in_and_out_bit_identical():
  state = load_file(GOLDEN / "state_dict.safetensors")
  ours = convert(state, miras.MIRAS, shapes(miras_config(Folder(GOLDEN))))
  assert_identical(export(ours, miras.MIRAS), state)


@needs_golden
@pytest.mark.parametrize(
  "file, table, inside",
  [
    ("lora_adapter", miras.TRAINING, "llm/layers/attn/q_proj/lora_a"),
    ("obj_cross_attention", miras.ALIGN, "seg_prompt/align/k_proj/kernel"),
  ],
)
def test_adapters_and_alignment_go_in_and_out_under_their_own_names(
  file, table, inside
):
  state = load_file(GOLDEN / f"{file}.safetensors")
  flat = {}
  for key, weight in state.items():
    for place, array in table.read(key, weight):
      if place.layer is None:
        flat[place.path] = array
      else:
        flat.setdefault(place.path, {})[place.layer] = array
  flat = {
    k: np.stack([v[i] for i in sorted(v)]) if isinstance(v, dict) else v
    for k, v in flat.items()
  }
  assert inside in flat
  assert_identical(export(unflatten_dict(flat, sep="/"), table), state)


# Full size


@pytest.mark.parametrize("kind", PARTS)
def test_a_table_covers_the_full_size_tree_and_no_rule_is_unused(kind):
  cfg = with_overrides(VARIANTS["7b"], EVERYTHING)
  wanted = part(kind, cfg)
  origins = KINDS[kind].origins(wanted)
  layers = cfg.llama.depth
  stacked = sum(KINDS[kind].stacked(path) for path in wanted)
  split = sum(len(origin.places) - 1 for origin in origins.values())
  assert len(origins) == len(wanted) + stacked * (layers - 1) - split
  used = {origin.rule for origin in origins.values()}
  if kind in ("miras", "miras-training", "peft"):  # whose projector may be one layer
    other = part(kind, with_overrides(cfg, {"projector": "linear"}))
    used |= {origin.rule for origin in KINDS[kind].origins(other).values()}
  unused = [r.src for r in KINDS[kind].rules if r not in used]
  assert not unused


def test_an_openai_in_proj_is_split_in_queries_keys_and_values():
  key = "visual.transformer.resblocks.3.attn.in_proj_weight"
  weight = np.arange(12 * 4).reshape(12, 4)
  made = dict(KINDS["clip-openai"].read(key, weight))
  found = {place.path: array for place, array in made.items()}
  want = weight[4:8].T
  np.testing.assert_array_equal(found["clip/layer_03/attn/k_proj/kernel"], want)
  assert len(found) == 3


@pytest.mark.parametrize(
  "kind, key, place",
  [
    (
      "llama",
      "model.layers.11.mlp.down_proj.weight",
      "llm/layers/mlp/down_proj/kernel[11]",
    ),
    ("llama", "model.layers.0.self_attn.k_proj.bias", "llm/layers/attn/k_proj/bias[0]"),
    ("clip", "vision_model.pre_layrnorm.weight", "clip/pre_norm/scale"),
    (
      "clip",
      "vision_model.encoder.layers.23.mlp.fc1.bias",
      "clip/layer_23/mlp/fc1/bias",
    ),
    (
      "convnext",
      "visual.trunk.stages.2.blocks.26.conv_dw.weight",
      "convnext/stage_2/block_26/dwconv/kernel",
    ),
    ("convnext", "stem.1.bias", "convnext/stem/norm/bias"),
    (
      "sam",
      "image_encoder.blocks.31.attn.rel_pos_w",
      "sam/encoder/block_31/attn/rel_pos_w",
    ),
    (
      "sam-hf",
      "mask_decoder.output_hypernetworks_mlps.2.proj_out.weight",
      "sam/decoder/output_hypernetworks_2/layers_2/kernel",
    ),
    (
      "sam-hf",
      "shared_image_embedding.positional_embedding",
      "sam/prompt_encoder/pe/gaussian",
    ),
    ("llava-hf", "multi_modal_projector.linear_2.bias", "projector/fc2/bias"),
    ("miras", "model.vlm_uni_aux_projector.1.weight", "mining/key_proj/kernel"),
    (
      "miras",
      "base_model.model.model.text_hidden_fcs.0.2.weight",
      "seg_prompt/text_fc2/kernel",
    ),
    (
      "miras-training",
      "base_model.model.model.layers.5.self_attn.q_proj.base_layer.weight",
      "llm/layers/attn/q_proj/kernel[5]",
    ),
    ("miras-training", "module.model.norm.weight", "llm/final_norm/scale"),
    (
      "peft",
      "base_model.model.model.layers.7.self_attn.v_proj.lora_B.weight",
      "llm/layers/attn/v_proj/lora_b[7]",
    ),
    ("peft", "base_model.model.lm_head.modules_to_save.weight", "llm/lm_head/kernel"),
  ],
)
def test_known_names_go_to_their_places(kind, key, place):
  assert [str(p) for p in KINDS[kind].places(key)] == [place]


@pytest.mark.parametrize(
  "kind, key",
  [
    ("llama", "model.layers.3.self_attn.rotary_emb.inv_freq"),
    ("clip", "vision_model.embeddings.position_ids"),
    ("clip", "text_model.encoder.layers.0.mlp.fc1.bias"),
    ("clip-openai", "transformer.resblocks.0.attn.in_proj_weight"),
    ("convnext", "visual.head.proj.weight"),
    ("convnext", "text.transformer.resblocks.0.ln_1.weight"),
    ("sam-hf", "prompt_encoder.shared_embedding.positional_embedding"),
    ("miras", "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"),
  ],
)
def test_buffers_and_text_towers_are_left_out(kind, key):
  assert KINDS[kind].places(key) == []


# Errors name what is wrong


def refused(change, match):
  """Converting the small Llama after `change(state)` is a UserError."""
  state = export(params("llama"), KINDS["llama"])
  change(state)
  with pytest.raises(UserError, match=match):
    convert(state, KINDS["llama"], part("llama", SMALL))


def test_an_unknown_key_is_named_with_the_nearest():
  refused(
    lambda s: s.update({"model.norms.weight": s.pop("model.norm.weight")}),
    "unknown key 'model.norms.weight'; the nearest known is 'model.norm.weight'",
  )


def test_a_missing_key_is_named_on_both_sides():
  key = "model.layers.2.mlp.up_proj.weight"
  refused(lambda s: s.pop(key), rf"up_proj/kernel\[2\]'; looked for '{key}'")


def test_a_wrong_shape_names_both():
  key = "model.layers.1.input_layernorm.weight"
  (D,) = shapes(SMALL)["llm/final_norm/scale"]
  refused(
    lambda s: s.update({key: np.zeros(D + 1, np.float32)}),
    rf"layernorm.weight' has shape \({D + 1},\).*wants \({D},\)",
  )


def test_a_layer_too_many_is_named():
  def add(state):
    name = "model.layers.3.input_layernorm.weight"
    state[name] = state[name.replace("3", "2")]

  refused(add, "layers.3.input_layernorm.weight' is layer 3 of a model of 3 layers")


def test_two_keys_for_one_place_are_both_named():
  state = export(params("miras"), KINDS["miras"])
  state["base_model.model.model.norm.weight"] = state["model.norm.weight"]
  with pytest.raises(UserError, match="'model.norm.weight' are both our"):
    convert(state, KINDS["miras"], part("miras", SMALL))


def test_a_part_that_the_model_lacks_is_an_error():
  state = export(params("miras"), KINDS["miras"])
  without = {k: v for k, v in shapes(SMALL).items() if not k.startswith("convnext/")}
  with pytest.raises(UserError, match="vision_tower_aux.*which this model lacks"):
    convert(state, KINDS["miras"], without)


def test_a_leaf_without_a_published_name_is_an_error():
  tree = {"llm": {"layers": {"attn": {"q_proj": {"lora_a": np.zeros((2, 4, 2))}}}}}
  with pytest.raises(UserError, match="lora_a' has no name in this format"):
    export(tree, KINDS["llama"])


def test_queries_without_their_keys_and_values_cannot_be_written():
  tree = {"clip": {"layer_00": {"attn": {"q_proj": {"bias": np.zeros(4)}}}}}
  with pytest.raises(UserError, match="in_proj_bias' also needs our .*k_proj/bias"):
    export(tree, KINDS["clip-openai"])


def test_a_shorter_vocabulary_is_planned_only_where_it_may_grow():
  expected = {"llm/embed/embedding": (20, 96)}
  source = [(None, "model.embed_tokens.weight", (15, 96), KINDS["llama"])]
  made = plan(source, expected, grows={"llm/embed/embedding": 0})
  assert made.pieces["llm/embed/embedding"][0].shape == (15, 96)
  with pytest.raises(UserError, match=r"\(15, 96\).*wants \(20, 96\)"):
    plan(source, expected)


# Templates


def test_numbers_are_canonical_in_both_directions():
  table = Table(
    (Rule("a.{i}.w", "x_{i:02}/k"), Rule("b.{i}.w", "y/k[{i}]", swap, swap))
  )
  assert [str(p) for p in table.places("a.7.w")] == ["x_07/k"]
  assert list(table.origins({"x_12/k": (1,), "y/k": (2, 3, 4)})) == [
    "a.12.w",
    "b.0.w",
    "b.1.w",
  ]
  for wrong in ("a.07.w", "a.7.w2", "A.7.w"):
    assert not table.knows(wrong)


def test_two_rules_for_one_key_are_a_bug_of_the_table():
  table = Table((Rule("a.{i}", "x_{i}"), Rule("a.{p:1|2}", "y_{p}")))
  with pytest.raises(ValueError, match="want one rule"):
    table.places("a.1")
