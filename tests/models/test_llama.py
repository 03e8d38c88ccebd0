"""The decoder: parity with golden and real weights, cache, remat, LoRA, sizes."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.config.model import REMAT_POLICIES
from miras_jax.models.attention import cache_mask, segment_mask
from miras_jax.models.llama import Llama, init_cache, merge_lora
from tests.models import golden_llm
from tests.models.tiny_llama import TINY, shapes_of
from tests.shared_data import DATA, needs_data, needs_golden

# Every feature that some family has (config/families/), at once.
FEATURED = dataclasses.replace(
  TINY, head_dim=6, qk_norm=True, activation="gelu_tanh", norm_offset=1.0,
  embed_scale=True, tie_embeddings=True,
)  # fmt: skip


def randomised(params, seed=0):
  """Every leaf random, so that no bias, norm or adapter is left at its start value."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  pairs = zip(leaves, keys, strict=True)
  noise = [0.3 * jax.random.normal(key, x.shape) for x, key in pairs]
  return tree.unflatten([x + n for x, n in zip(leaves, noise, strict=True)])


@functools.cache
def build(cfg=TINY, *, B=2, T=7):
  """(model, params, inputs) with every parameter random."""
  model = Llama(cfg)
  x_BTD = jax.random.normal(jax.random.key(1), (B, T, cfg.width))
  positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
  mask_BTS = segment_mask(jnp.ones((B, T), jnp.int32))
  inputs = x_BTD, positions_BT, mask_BTS

  @jax.jit
  def params():
    return randomised(model.init(jax.random.key(0), *inputs)["params"])

  return model, params(), inputs


@functools.partial(jax.jit, static_argnums=0, static_argnames=("deterministic",))
def run(model, params, inputs, *, deterministic=True, rngs=None):
  variables = {"params": params}
  return model.apply(variables, *inputs, deterministic=deterministic, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, hidden_BTD):
  return model.apply({"params": params}, hidden_BTD, method="logits")


# Golden parity


def golden_run(*, lora=False, name="splice/inputs_embeds"):
  model = Llama(golden_llm.llama_config(lora=lora))
  params = golden_llm.llama_params(lora=lora)
  x_BTD, positions_BT, segments_BT = golden_llm.llama_inputs(name)
  inputs = x_BTD, positions_BT, segment_mask(segments_BT)
  hidden, state = model.apply({"params": params}, *inputs, capture_intermediates=True)
  return hidden, logits(model, params, hidden), state["intermediates"]


@needs_golden
def test_golden_hidden_states_of_every_layer():
  hidden_BTD, _, captured = golden_run()
  out = golden_llm.arrays("outputs.npz")
  ((carry, _),) = captured["layers"]["__call__"]
  np.testing.assert_allclose(carry[0][0], out["llm/hidden_1"], atol=1e-5)
  np.testing.assert_allclose(hidden_BTD, out["llm/hidden_2"], atol=2e-5)


@needs_golden
def test_golden_logits():
  _, logits_BTV, _ = golden_run()
  expected = golden_llm.arrays("outputs.npz")["llm/logits"]
  np.testing.assert_allclose(logits_BTV, expected, atol=2e-5)


@needs_golden
def test_golden_embeddings_with_obj_give_its_logits():
  _, logits_BTV, _ = golden_run(name="obj")
  expected = golden_llm.arrays("outputs.npz")["obj/logits"]
  np.testing.assert_allclose(logits_BTV, expected, atol=2e-5)


@needs_golden
def test_golden_lora_unmerged():
  hidden_BTD, logits_BTV, _ = golden_run(lora=True)
  out = golden_llm.arrays("lora_outputs.npz")
  np.testing.assert_allclose(hidden_BTD, out["last_hidden"], atol=2e-5)
  np.testing.assert_allclose(logits_BTV, out["logits"], atol=2e-5)


@needs_golden
def test_golden_lora_merged():
  cfg = golden_llm.llama_config(lora=True)
  params = merge_lora(golden_llm.llama_params(lora=True), cfg)
  out = golden_llm.arrays("lora_outputs.npz")
  kernel = params["layers"]["attn"]["v_proj"]["kernel"][1].T
  expected = out["merged_weight/model.layers.1.self_attn.v_proj.weight"]
  np.testing.assert_allclose(kernel, expected, atol=1e-6)
  x_BTD, positions_BT, segments_BT = golden_llm.llama_inputs()
  model = Llama(golden_llm.llama_config())
  hidden_BTD = run(model, params, (x_BTD, positions_BT, segment_mask(segments_BT)))
  logits_BTV = logits(model, params, hidden_BTD)
  np.testing.assert_allclose(logits_BTV, out["merged_logits"], atol=2e-5)


# Real weights


@needs_data
def test_real_weights_greedy_tokens_equal_the_reference_program():
  reference = json.loads(
    (DATA / "real_weights" / "stories260K_reference.json").read_text()
  )
  cfg, params = golden_llm.stories()
  model = Llama(cfg)

  def step(carry, index):
    token_B, cache = carry
    index_B = index[None]
    x_BTD = model.apply({"params": params}, token_B[:, None], method="embed")
    hidden_BTD, cache = extend(model, params, x_BTD, index_B[:, None], cache, index_B)
    token_B = logits(model, params, hidden_BTD)[:, 0].argmax(-1)
    return (token_B, cache), token_B[0]

  start = jnp.array([1]), init_cache(cfg, 1, 256)
  _, tokens = jax.lax.scan(step, start, jnp.arange(256))
  assert tokens.tolist() == reference["greedy_ids"][1:]


# Cache


@functools.partial(jax.jit, static_argnums=0)
def extend(model, params, x_BTD, positions_BT, cache, index_B):
  mask_BTS = cache_mask(index_B, x_BTD.shape[1], cache.k_LBKSH.shape[3])
  args = x_BTD, positions_BT, cache, index_B, mask_BTS
  return model.apply({"params": params}, *args, method="extend")


@pytest.mark.parametrize("cfg", [TINY, FEATURED], ids=["plain", "featured"])
def test_prefill_then_single_tokens_equal_the_full_forward(cfg):
  model, params, (x_BTD, positions_BT, mask_BTS) = build(cfg)
  full_BTD = run(model, params, (x_BTD, positions_BT, mask_BTS))
  prompt_B, T = jnp.array([4, 2]), x_BTD.shape[1]
  cache, zero_B = init_cache(cfg, 2, T), jnp.zeros(2, jnp.int32)

  # Row 1 is right padded: its slots 2 and 3 hold rubbish until they are overwritten.
  padded = jnp.where((jnp.arange(4) < prompt_B[:, None])[..., None], x_BTD[:, :4], 9.0)
  hidden_BTD, cache = extend(model, params, padded, positions_BT[:, :4], cache, zero_B)
  np.testing.assert_allclose(hidden_BTD[0], full_BTD[0, :4], atol=1e-5)
  np.testing.assert_allclose(hidden_BTD[1, :2], full_BTD[1, :2], atol=1e-5)
  rows = jnp.arange(2)
  for step in range(3):
    at_B = prompt_B + step
    x_B1D = x_BTD[rows, at_B][:, None]
    hidden_BTD, cache = extend(model, params, x_B1D, at_B[:, None], cache, at_B)
    np.testing.assert_allclose(hidden_BTD[:, 0], full_BTD[rows, at_B], atol=1e-5)


def test_a_later_turn_extends_the_cache_by_several_tokens():
  model, params, (x_BTD, positions_BT, mask_BTS) = build()
  full_BTD = run(model, params, (x_BTD, positions_BT, mask_BTS))
  cache = init_cache(TINY, 2, 10)
  for start, stop in ((0, 3), (3, 7)):
    hidden_BTD, cache = extend(
      model,
      params,
      x_BTD[:, start:stop],
      positions_BT[:, start:stop],
      cache,
      jnp.full(2, start),
    )
  np.testing.assert_allclose(hidden_BTD, full_BTD[:, 3:], atol=1e-5)


# Packing, variants of the family


def test_packed_conversations_equal_each_alone_on_its_prefix():
  model, params, (x_BTD, *_) = build(B=1)
  segments_BT = jnp.array([[1, 1, 1, 2, 2, 3, 3]])
  positions_BT = jnp.array([[0, 1, 2, 3, 4, 3, 4]])
  packed = run(model, params, (x_BTD, positions_BT, segment_mask(segments_BT)))
  alone_BTD = jnp.concatenate([x_BTD[:, :3], x_BTD[:, 5:]], axis=1)
  alone = run(
    model,
    params,
    (alone_BTD, jnp.arange(5)[None], segment_mask(jnp.ones((1, 5), jnp.int32))),
  )
  np.testing.assert_allclose(packed[:, 5:], alone[:, 3:], atol=1e-5)


@pytest.mark.parametrize("name", ["blocked", "jax"])
def test_attention_implementations_agree_in_the_model(name):
  model, params, inputs = build()
  other = Llama(dataclasses.replace(TINY, attention=name))
  np.testing.assert_allclose(
    run(other, params, inputs), run(model, params, inputs), atol=1e-5
  )


def test_tied_model_reads_logits_off_its_embedding():
  model, params, inputs = build(dataclasses.replace(TINY, tie_embeddings=True))
  hidden_BTD = run(model, params, inputs)
  expected = hidden_BTD @ params["embed"]["embedding"].T
  assert "lm_head" not in params
  np.testing.assert_allclose(logits(model, params, hidden_BTD), expected, atol=1e-5)


def test_normed_heads_ignore_the_size_of_their_projections():
  cfg = dataclasses.replace(TINY, qkv_bias=False, qk_norm=True, norm_eps=1e-8)
  model, params, inputs = build(cfg)
  larger = jax.tree.map(lambda x: x, params)
  for name in ("q_proj", "k_proj"):
    larger["layers"]["attn"][name]["kernel"] *= 8
  np.testing.assert_allclose(
    run(model, larger, inputs), run(model, params, inputs), atol=1e-4
  )


def test_a_norm_with_an_offset_stores_what_is_added_to_one():
  cfg = dataclasses.replace(TINY, norm_offset=1.0)
  model, params, inputs = build(cfg)
  fresh = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
  assert not fresh["final_norm"]["scale"].any()
  plain = jax.tree.map_with_path(
    lambda path, x: x + 1 if "scale" in str(path[-1]) else x, params
  )
  np.testing.assert_allclose(
    run(model, params, inputs), run(Llama(TINY), plain, inputs), atol=1e-5
  )


def test_scaled_embeddings_are_larger_by_the_root_of_the_width():
  model, params, _ = build(dataclasses.replace(TINY, embed_scale=True))
  x_BTD = model.apply({"params": params}, jnp.array([[3]]), method="embed")
  want = params["embed"]["embedding"][3] * TINY.width**0.5
  np.testing.assert_allclose(x_BTD[0, 0], want, rtol=1e-6)


def test_half_precision_compute_keeps_float32_parameters_and_logits():
  _, params, inputs = build()
  model = Llama(TINY, jnp.bfloat16)
  made = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
  hidden_BTD = run(model, params, inputs)
  assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
  assert hidden_BTD.dtype == jnp.bfloat16
  assert logits(model, params, hidden_BTD).dtype == jnp.float32


def test_token_outside_the_vocabulary_is_nan():
  model, params, _ = build()
  tokens_BT = jnp.array([[TINY.vocab_size]])
  x_BTD = model.apply({"params": params}, tokens_BT, method="embed")
  assert np.isnan(x_BTD).all()


# Gradients, remat, LoRA


def loss_and_grad(cfg, params, inputs):
  model = Llama(cfg)

  def loss(params):
    return jnp.square(run(model, params, inputs)).mean()

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("remat", [p for p in REMAT_POLICIES if p != "none"])
def test_remat_keeps_loss_and_gradient(remat):
  _, params, inputs = build()
  loss, grad = loss_and_grad(dataclasses.replace(TINY, remat=remat), params, inputs)
  plain_loss, plain_grad = loss_and_grad(TINY, params, inputs)
  np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grad, plain_grad
  )


def saved_bytes(remat):
  """Bytes of what the backward pass keeps of the forward pass."""
  cfg = dataclasses.replace(TINY, remat=remat)
  _, params, inputs = build(T=32)

  def forward(params):
    return run(Llama(cfg), params, inputs)

  residuals = jax.eval_shape(lambda p: jax.vjp(forward, p)[1], params)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))


def test_policies_keep_less_and_less():
  kept = [saved_bytes(name) for name in ("none", "minimal", "dots", "full")]
  assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4


@pytest.mark.parametrize("base", [TINY, FEATURED], ids=["plain", "featured"])
def test_fresh_adapter_changes_nothing(base):
  cfg = dataclasses.replace(base, lora_rank=2)
  model, _, inputs = build(cfg)
  fresh = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
  flat = flatten_dict(fresh, sep="/")
  plain = unflatten_dict({k: v for k, v in flat.items() if "lora" not in k}, sep="/")
  assert len(flat) > len(flatten_dict(plain))
  np.testing.assert_array_equal(
    run(model, fresh, inputs), run(Llama(base), plain, inputs)
  )


def test_merged_model_has_no_adapter_and_the_same_output():
  cfg = dataclasses.replace(TINY, lora_rank=2)
  model, params, inputs = build(cfg)
  merged = merge_lora(params, cfg)
  assert not any("lora" in path for path in flatten_dict(merged, sep="/"))
  np.testing.assert_allclose(
    run(Llama(TINY), merged, inputs), run(model, params, inputs), atol=1e-5
  )


def test_merge_keeps_the_kernel_s_type_and_the_input_unchanged():
  cfg = dataclasses.replace(TINY, lora_rank=2)
  _, params, _ = build(cfg)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  merged = merge_lora(half, cfg)
  assert merged["layers"]["attn"]["q_proj"]["kernel"].dtype == jnp.bfloat16
  assert "lora_a" in half["layers"]["attn"]["q_proj"]


def test_merge_with_another_rank_is_an_error():
  _, params, _ = build(dataclasses.replace(TINY, lora_rank=2))
  with pytest.raises(ValueError, match="rank 2 under cfg.lora_rank=0"):
    merge_lora(params, TINY)


def test_lora_dropout_acts_in_training_only_and_follows_its_key():
  cfg = dataclasses.replace(TINY, lora_rank=2, lora_dropout=0.5, remat="full")
  model, params, inputs = build(cfg)

  def train(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return run(model, params, inputs, deterministic=False, rngs=rngs)

  assert np.abs(train(0) - train(1)).max() > 1e-3
  np.testing.assert_array_equal(train(0), train(0))
  np.testing.assert_array_equal(
    run(model, params, inputs),
    run(model, params, inputs, rngs={"dropout": jax.random.key(0)}),
  )


def test_unknown_lora_target_is_an_error():
  cfg = dataclasses.replace(TINY, lora_rank=2, lora_targets=("query",))
  with pytest.raises(ValueError, match="query"):
    shapes_of(cfg)
