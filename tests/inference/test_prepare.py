"""What answers is what was trained: adapters merged, layers apart, perhaps int8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.records import SegConversation
from miras_jax.inference import rollout
from miras_jax.inference.prepare import prepare, quantise, rounded
from miras_jax.models.miras import Miras
from tests import tiny_loaded
from tests.inference import test_rollout


def prepared(weights="trained"):
  loaded = tiny_loaded.loaded()
  cfg, params = prepare(
    loaded.model.cfg, jax.tree.map(jnp.copy, loaded.params), weights
  )
  return loaded._replace(model=Miras(cfg), params=params)


@pytest.fixture(scope="module")
def trained():
  return test_rollout.said(test_rollout.JOBS, 4)


def test_layers_apart_say_what_the_stacked_model_says(trained):
  found = test_rollout.said(test_rollout.JOBS, 4, prepared())
  for before, after in zip(trained, found, strict=True):
    assert [a.text for a in before] == [a.text for a in after]
    for a, b in zip(before, after, strict=True):
      np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_teacher_forcing_is_the_same_on_layers_apart():
  empty = {"size": [64, 40], "counts": "`g1"}
  record = SegConversation(
    id="a",
    source="test",
    image=b"read by views",
    turns=(("user", "which one"), ("assistant", "the cup [SEG].")),
    targets=(("cup", empty),),
  )
  before, after = (
    rollout.Forced(loaded, test_rollout.views, batch_size=1).masks({0: record})
    for loaded in (tiny_loaded.loaded(), prepared())
  )
  assert np.ptp(before[0][0]) > 1
  np.testing.assert_allclose(before[0][0], after[0][0], atol=1e-4)


def test_the_stack_is_used_up_and_the_rest_is_not_copied():
  loaded = tiny_loaded.loaded()
  params = jax.tree.map(jnp.copy, loaded.params)
  stack, sam = params["llm"]["layers"]["mlp"]["up_proj"]["kernel"], params["sam"]
  _, out = prepare(loaded.model.cfg, params)
  assert stack.is_deleted() and not params
  assert all(
    x is y
    for x, y in zip(jax.tree.leaves(out["sam"]), jax.tree.leaves(sam), strict=True)
  )
  assert not [
    p for p, _ in jax.tree_util.tree_leaves_with_path(out) if "lora" in str(p)
  ]


def test_a_bfloat16_kernel_is_rounded_once():
  loaded = tiny_loaded.loaded()
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), loaded.params)
  q = half["llm"]["layers"]["attn"]["q_proj"]
  q = jax.tree.map(lambda x: np.asarray(x, np.float64), q)
  cfg = loaded.model.cfg.llama
  want = q["kernel"] + q["lora_a"] @ q["lora_b"] * cfg.lora_alpha / cfg.lora_rank
  _, out = prepare(loaded.model.cfg, half)
  got = out["llm"]["layer_1"]["attn"]["q_proj"]["kernel"]
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(got, np.float64), want[1], rtol=2**-8)


def test_int8_is_within_half_a_step_of_each_channel():
  kernel = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
  kernel[:, 2] *= 1000
  kernel[:, 3] = 0
  values, scale = quantise(jnp.asarray(kernel))
  assert values.dtype == jnp.int8 and np.abs(values).max() == 127
  error = np.abs(np.asarray(values) * np.asarray(scale) - kernel)
  assert (error <= 0.5001 * np.asarray(scale)).all()


def test_int8_answers_are_near_those_of_the_trained_weights():
  loaded, small = prepared(), prepared("int8")
  q = small.params["llm"]["layer_0"]["attn"]["q_proj"]
  assert q["kernel"].dtype == jnp.int8 and q["kernel_scale"].shape == (16,)
  assert small.params["llm"]["lm_head"]["kernel"].dtype == jnp.int8
  hidden = jax.random.normal(jax.random.key(0), (1, 5, 32))
  logits = [
    x.model.apply({"params": x.params}, hidden, method="logits")
    for x in (loaded, small)
  ]
  assert np.linalg.norm(logits[0] - logits[1]) < 0.01 * np.linalg.norm(logits[0])


def test_rounded_parameters_hold_the_numbers_of_int8():
  loaded = tiny_loaded.loaded()
  params = jax.tree.map(jnp.copy, loaded.params)
  up = rounded(params)["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
  part = prepared("int8").params["llm"]["layer_1"]["mlp"]["up_proj"]
  np.testing.assert_allclose(up[1], part["kernel"] * part["kernel_scale"], rtol=1e-6)


def test_of_shapes_it_makes_shapes():
  loaded = tiny_loaded.loaded()
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), loaded.params
  )
  cfg, found = prepare(loaded.model.cfg, shapes, "int8")
  want = prepared("int8")
  assert cfg == want.model.cfg
  assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
    lambda x: (x.shape, x.dtype), want.params
  )


def test_tied_embeddings_stay_as_they_are():
  loaded = tiny_loaded.loaded()
  llama = dataclasses.replace(loaded.model.cfg.llama, tie_embeddings=True)
  params = jax.tree.map(jnp.copy, loaded.params)
  del params["llm"]["lm_head"]
  cfg = dataclasses.replace(loaded.model.cfg, llama=llama)
  _, out = prepare(cfg, params, "int8")
  assert out["llm"]["embed"]["embedding"].dtype == jnp.float32
