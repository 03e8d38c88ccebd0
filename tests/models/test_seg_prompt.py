"""[SEG] states, the [OBJ]..[SEG] span and the three alignments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.model import SegPromptConfig
from miras_jax.models.attention import segment_mask
from miras_jax.models.llama import Llama
from miras_jax.models.seg_prompt import SegPrompt, select_states, span_mask
from tests.models import golden_llm
from tests.shared_data import needs_golden

SEG_BM, OBJ_BM = jnp.array([[4, 6], [3, 0]]), jnp.array([[2, -1], [0, -1]])
VALID_BM = jnp.array([[1, 1], [1, 0]])


def hidden(B=2, T=8, D=12):
  return jax.random.normal(jax.random.key(3), (B, T, D))


def build(alignment, *, seg_state="predict"):
  cfg = SegPromptConfig(
    out_width=8, num_heads=2, seg_state=seg_state, alignment=alignment
  )
  model = SegPrompt(cfg, in_width=12)
  inputs = hidden(), SEG_BM, OBJ_BM, VALID_BM
  return model, jax.jit(model.init)(jax.random.key(0), *inputs)["params"]


@functools.partial(jax.jit, static_argnums=0)
def prompts(model, params, *inputs):
  return model.apply({"params": params}, *inputs)


# States and spans


@pytest.mark.parametrize("seg_state, shift", [("predict", 1), ("at", 0)])
def test_select_states_reads_the_configured_state_and_zeros_the_padding(
  seg_state, shift
):
  states_BMD = select_states(hidden(), SEG_BM, VALID_BM, seg_state=seg_state)
  np.testing.assert_array_equal(states_BMD[0, 0], hidden()[0, 4 - shift])
  np.testing.assert_array_equal(states_BMD[0, 1], hidden()[0, 6 - shift])
  np.testing.assert_array_equal(states_BMD[1, 0], hidden()[1, 3 - shift])
  assert not states_BMD[1, 1].any()


@pytest.mark.parametrize("seg_state, shift", [("predict", 1), ("at", 0)])
def test_span_runs_from_the_obj_state_up_to_the_seg_state(seg_state, shift):
  seg_BM, obj_BM = jnp.array([[6, 6, 3]]), jnp.array([[2, -1, 5]])
  span_BMT = span_mask(seg_BM, obj_BM, 8, seg_state=seg_state)
  expected_MT = np.zeros((3, 8), bool)
  expected_MT[0, 2 - shift : 6 - shift] = True  # no [OBJ], or one after [SEG]: empty
  np.testing.assert_array_equal(span_BMT[0], expected_MT)


# Golden parity


@functools.cache
def golden_hidden(name):
  x_BTD, positions_BT, segments_BT = golden_llm.llama_inputs(name)
  variables = {"params": golden_llm.llama_params()}
  model = Llama(golden_llm.llama_config())
  return model.apply(variables, x_BTD, positions_BT, segment_mask(segments_BT))


def golden_model(alignment):
  cfg = golden_llm.seg_prompt_config(alignment)
  model = SegPrompt(cfg, in_width=golden_llm.config()["text_hidden_fcs"]["in_dim"])
  return model, golden_llm.seg_prompt_params(alignment)


@needs_golden
def test_golden_projection_of_every_state():
  model, params = golden_model("none")
  states = golden_hidden("splice/inputs_embeds")
  projected = model.apply({"params": params}, states, method="project")
  expected = golden_llm.arrays("outputs.npz")["seg/projected_all"]
  np.testing.assert_allclose(projected, expected, atol=1e-5)


@needs_golden
def test_golden_seg_embeddings_without_alignment():
  model, params = golden_model("none")
  seg_BM, obj_BM, valid_BM = golden_llm.seg_and_obj("input_ids")
  states = golden_hidden("splice/inputs_embeds")
  prompt_BMC = prompts(model, params, states, seg_BM, obj_BM, valid_BM)
  expected = golden_llm.arrays("outputs.npz")["seg/embeddings"]
  np.testing.assert_allclose(prompt_BMC[np.array(valid_BM) > 0], expected, atol=1e-5)


@needs_golden
def test_golden_obj_spans_and_seg_inputs():
  out, rows = golden_llm.arrays("outputs.npz"), (0, 3)
  model, params = golden_model("none")
  seg_BM, obj_BM, valid_BM = golden_llm.seg_and_obj()
  states = golden_hidden("obj")
  projected = model.apply({"params": params}, states, method="project")
  span_BMT = np.array(span_mask(seg_BM, obj_BM, states.shape[1], seg_state="predict"))
  seg_BMC = select_states(projected, seg_BM, valid_BM, seg_state="predict")
  assert [int(span_BMT[b].sum()) for b in rows] == [
    len(out[f"obj/span_{i}"]) for i in range(2)
  ]
  for i, b in enumerate(rows):
    span = projected[b][span_BMT[b, 0]]
    np.testing.assert_allclose(span, out[f"obj/span_{i}"][:, 0], atol=1e-5)
    np.testing.assert_allclose(seg_BMC[b], out[f"obj/seg_in_{i}"], atol=1e-5)


@needs_golden
def test_golden_published_alignment_replaces_seg_where_there_is_an_obj():
  out = golden_llm.arrays("outputs.npz")
  model, params = golden_model("published")
  positions = golden_llm.seg_and_obj()
  prompt_BMC = prompts(model, params, golden_hidden("obj"), *positions)
  valid_B = np.array(positions[2])[:, 0] > 0
  np.testing.assert_allclose(prompt_BMC[valid_B], out["obj/prompt_sparse"], atol=1e-5)
  np.testing.assert_allclose(prompt_BMC[0], out["obj/aligned_0"], atol=1e-5)
  np.testing.assert_allclose(prompt_BMC[3], out["obj/aligned_1"], atol=1e-5)


# Alignments


def test_parameter_names_are_the_contract():
  names = {k: set(v) for k, v in build("residual")[1].items()}
  assert names == {
    "text_fc1": {"kernel", "bias"},
    "text_fc2": {"kernel", "bias"},
    "align": {"q_proj", "k_proj", "v_proj", "out_proj", "linear"},
  }
  assert "align" not in build("none")[1]


@pytest.mark.parametrize("seg_state", ["predict", "at"])
def test_residual_alignment_starts_as_plain_seg(seg_state):
  model, params = build("residual", seg_state=seg_state)
  plain, _ = build("none", seg_state=seg_state)
  inputs = hidden(), SEG_BM, OBJ_BM, VALID_BM
  head = {k: v for k, v in params.items() if k != "align"}
  np.testing.assert_allclose(
    prompts(model, params, *inputs), prompts(plain, head, *inputs), atol=1e-6
  )


def test_residual_alignment_can_learn_from_its_zero_start():
  model, params = build("residual")

  def loss(params):
    return prompts(model, params, hidden(), SEG_BM, OBJ_BM, VALID_BM).sum()

  assert np.abs(jax.grad(loss)(params)["align"]["linear"]["kernel"]).max() > 1e-3


def test_published_alignment_keeps_plain_seg_without_obj():
  model, params = build("published")
  plain, _ = build("none")
  inputs = hidden(), SEG_BM, OBJ_BM, VALID_BM
  head = {k: v for k, v in params.items() if k != "align"}
  aligned, seg = prompts(model, params, *inputs), prompts(plain, head, *inputs)
  np.testing.assert_allclose(aligned[0, 1], seg[0, 1], atol=1e-6)
  assert np.abs(aligned[0, 0] - seg[0, 0]).max() > 1e-2


def test_alignment_reads_its_span_and_the_seg_state_only():
  model, params = build("published")

  def first_prompt(hidden_BTD):
    return prompts(model, params, hidden_BTD, SEG_BM, OBJ_BM, VALID_BM)[0, 0].sum()

  moved_BT = np.abs(jax.grad(first_prompt)(hidden())).max(-1) > 0
  # [OBJ] at 2 and [SEG] at 4: span states 1, 2 and the [SEG] state 3.
  np.testing.assert_array_equal(np.argwhere(moved_BT), [[0, 1], [0, 2], [0, 3]])


@pytest.mark.parametrize("alignment", ["none", "residual", "published"])
def test_padding_slots_are_zero_and_without_gradient(alignment):
  model, params = build(alignment)
  nothing_BM = jnp.zeros((2, 2), jnp.int32)

  def total(params, hidden_BTD):
    return prompts(
      model, params, hidden_BTD, nothing_BM, nothing_BM - 1, nothing_BM
    ).sum()

  value, grads = jax.value_and_grad(total, argnums=(0, 1))(params, hidden())
  assert value == 0
  assert all(not x.any() for x in jax.tree.leaves(grads))


def test_without_alignment_only_the_seg_states_are_projected():
  model, params = build("none")
  jaxpr = str(
    jax.make_jaxpr(lambda h: prompts(model, params, h, SEG_BM, OBJ_BM, VALID_BM))(
      hidden()
    )
  )
  products = [line for line in jaxpr.splitlines() if "= dot_general" in line]
  # 2 rows x 2 masks = 4 states, never the 2 x 8 of the sequence.
  assert len(products) == 2 and all("f32[4," in line for line in products)


def test_full_size_shapes():
  model = SegPrompt(SegPromptConfig(out_width=256), in_width=4096, dtype=jnp.bfloat16)
  positions = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  hidden_BTD = jax.ShapeDtypeStruct((2, 1500, 4096), jnp.bfloat16)
  out, variables = jax.eval_shape(
    model.init_with_output, jax.random.key(0), hidden_BTD, *[positions] * 3
  )
  assert out.shape == (2, 3, 256) and out.dtype == jnp.bfloat16
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables))
  assert count == 4096 * 4097 + 4097 * 256 + 5 * 257 * 256
