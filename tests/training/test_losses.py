import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.settings import (
  LOSS_PRESETS,
  PUBLISHED_FORMS,
  LossConfig,
  MeshConfig,
)
from miras_jax.errors import UserError
from miras_jax.parallel.mesh import make_mesh
from miras_jax.training import losses
from tests.models import golden_sam
from tests.shared_data import needs_golden

CASES = ("random", "near_perfect", "blurred", "all_empty", "single")
PUBLISHED = {
  "sigmoid_ce_loss": losses.mask_bce,
  "dice_loss": lambda *a, **k: losses.dice(*a, **k, scale=10_000.0),
  "focal_loss": lambda *a, **k: losses.focal(*a, **k, form="published"),
  "boundary_loss": lambda *a, **k: losses.boundary(*a, **k, form="published"),
}
MASK_LOSSES = (losses.mask_bce, losses.dice, losses.focal, losses.boundary)


def _one_image(loss, logits_MHW, targets_MHW, **kwargs):
  """`loss` of the masks of one image, over their number."""
  M = len(targets_MHW)
  return loss(
    logits_MHW[None],
    targets_MHW[None],
    seg_valid_BM=jnp.ones((1, M), jnp.int32),
    normaliser=M,
    **kwargs,
  )


@needs_golden
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_agree_with_the_reference(case, name):
  golden = golden_sam.arrays("losses")

  def loss(logits):
    return _one_image(PUBLISHED[name], logits, golden[f"{case}/targets"])

  value, grad = jax.value_and_grad(loss)(jnp.asarray(golden[f"{case}/logits"]))
  np.testing.assert_allclose(value, golden[f"{case}/{name}"], atol=1e-6)
  np.testing.assert_allclose(grad, golden[f"{case}/grad_{name}"], atol=1e-6)


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_sobel_edges_agree_with_the_reference(case):
  golden = golden_sam.arrays("losses")
  edges = losses.sobel_edges(golden[f"{case}/targets"][:, None])
  np.testing.assert_allclose(edges, golden[f"{case}/sobel_edges_gt"], atol=1e-5)


@needs_golden
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("nth, image, masks", [(0, 0, (0, 1)), (1, 2, (2,))])
def test_raw_losses_of_the_main_batch_agree_with_the_reference(nth, image, masks, name):
  golden = golden_sam.arrays("outputs")
  logits = np.concatenate([golden[f"masks/pred_logits_{m}"] for m in masks])
  targets = golden_sam.arrays("inputs")[f"gt_masks_{image}"]
  value = _one_image(PUBLISHED[name], logits, targets)
  np.testing.assert_allclose(value, golden[f"loss_raw/{name}_image{nth}"], atol=1e-6)


def _on_canvas(side):
  """Main batch on padded squares: rows are images, the second has one mask of two."""
  golden, inputs = golden_sam.arrays("outputs"), golden_sam.arrays("inputs")
  rng = np.random.default_rng(0)
  logits = 50 * rng.normal(size=(2, 2, side, side)).astype(np.float32)
  targets = rng.integers(0, 2, (2, 2, side, side)).astype(np.uint8)
  sizes = []
  for row, (image, masks) in enumerate([(0, (0, 1)), (2, (2,))]):
    height, width = inputs[f"gt_masks_{image}"].shape[1:]
    sizes.append((height, width))
    for i, m in enumerate(masks):
      logits[row, i, :height, :width] = golden[f"masks/pred_logits_{m}"][0]
      targets[row, i, :height, :width] = inputs[f"gt_masks_{image}"][i]
  return logits, targets, np.array(sizes)


@needs_golden
@pytest.mark.parametrize("stage, preset", [(1, "paper"), (2, "stage2_code")])
def test_presets_in_published_form_give_the_published_mask_loss(stage, preset):
  """Weighted terms over all masks, padded to one canvas, with a padding mask."""
  logits, targets, sizes = _on_canvas(64)
  cfg = dataclasses.replace(LOSS_PRESETS[preset], **PUBLISHED_FORMS)
  terms = losses.mask_losses(
    cfg,
    logits,
    targets,
    seg_valid_BM=np.array([[1, 1], [1, 0]]),
    pixels_BHW=losses.valid_pixels(sizes, 64, 64, 64),
    normaliser=3,
  )
  golden = golden_sam.arrays("outputs")
  total = 0.0
  for name, value in terms.items():
    value = getattr(cfg, name) * value
    key = f"mask_{name.removeprefix('mask_')}_loss"
    want = golden[f"loss_stage{stage}/{key}"]
    np.testing.assert_allclose(value, want, atol=1e-5, err_msg=name)
    total += value
  np.testing.assert_allclose(total, golden[f"loss_stage{stage}/mask_loss"], atol=1e-5)


@needs_golden
def test_token_ce_agrees_with_the_reference():
  golden = golden_sam.arrays("outputs")
  labels = golden["splice/labels"]
  valid = labels != -100
  value = losses.token_ce(
    golden["llm/logits"], np.where(valid, labels, 0), valid, normaliser=valid.sum()
  )
  np.testing.assert_allclose(value, golden["llm/ce_loss"], atol=1e-5)


def _batch(side=8):
  """Three rows of two masks: two, one and no valid target; two are padded."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 2, side, side)).astype(np.float32)
  targets = (rng.random((3, 2, side, side)) < 0.4).astype(np.uint8)
  valid = np.array([[1, 1], [1, 0], [0, 0]])
  sizes = np.array([[8, 5], [3, 8], [8, 8]])
  pixels = np.asarray(losses.valid_pixels(sizes, side, side, 8))
  return logits, targets, dict(seg_valid_BM=valid, pixels_BHW=pixels)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_padding_and_absent_masks_change_nothing(loss):
  logits, targets, where = _batch()
  hidden = ~where["pixels_BHW"][:, None] | (where["seg_valid_BM"] == 0)[..., None, None]
  want = loss(logits, targets, **where, normaliser=3)
  other = loss(logits + 9 * hidden, targets ^ hidden, **where, normaliser=3)
  assert want > 0
  np.testing.assert_array_equal(other, want)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_masked_canvas_equals_the_crop(loss):
  logits, targets, where = _batch()
  where["seg_valid_BM"] = np.array([[1, 1], [0, 0], [0, 0]])
  crop = _one_image(loss, logits[0, :, :8, :5], targets[0, :, :8, :5])
  canvas = loss(logits, targets, **where, normaliser=2)
  np.testing.assert_allclose(canvas, crop, rtol=1e-5)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_rows_add_up_to_the_batch(loss):
  """With one global normaliser, accumulation is exact however masks are spread."""
  logits, targets, where = _batch()

  def rows(b):
    part = {name: value[b : b + 1] for name, value in where.items()}
    return loss(logits[b : b + 1], targets[b : b + 1], **part, normaliser=3)

  whole = loss(logits, targets, **where, normaliser=3)
  np.testing.assert_allclose(sum(rows(b) for b in range(3)), whole, rtol=1e-6)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_packing_masks_in_one_row_changes_nothing(loss):
  logits, targets, _ = _batch()
  ones = np.ones((3, 2), int)
  apart = loss(logits, targets, seg_valid_BM=ones, normaliser=6)
  packed = loss(
    logits.reshape(1, 6, 8, 8),
    targets.reshape(1, 6, 8, 8),
    seg_valid_BM=ones.reshape(1, 6),
    normaliser=6,
  )
  np.testing.assert_allclose(packed, apart, rtol=1e-6)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_batch_without_targets_gives_zero_and_a_zero_gradient(loss):
  logits, targets, where = _batch()
  where["seg_valid_BM"] = np.zeros((3, 2), int)
  value, grad = jax.value_and_grad(loss)(logits, targets, **where, normaliser=1)
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_flat_and_saturated_predictions_have_finite_gradients(loss, logit):
  logits = jnp.full((1, 1, 8, 8), logit)
  targets = jnp.zeros((1, 1, 8, 8)).at[..., 2:5, 3:6].set(1)
  valid = jnp.ones((1, 1))
  grad = jax.grad(loss)(logits, targets, seg_valid_BM=valid, normaliser=1)
  assert np.isfinite(grad).all()


def test_our_boundary_has_a_gradient():
  logits, targets, where = _batch()
  grad = jax.grad(losses.boundary)(logits, targets, **where, normaliser=3)
  assert np.abs(grad).max() > 0


def test_dice_scale_softens_the_loss_of_an_empty_target():
  logits, empty = jnp.full((1, 1, 8, 8), -10.0), jnp.zeros((1, 1, 8, 8))
  kwargs = dict(seg_valid_BM=jnp.ones((1, 1)), normaliser=1)
  small = losses.dice(logits, empty, **kwargs, scale=1000.0)
  large = losses.dice(logits, empty, **kwargs, scale=10_000.0)
  p = 64 / (1 + np.exp(10.0))
  for value, scale in [(small, 1000), (large, 10_000)]:
    want = 1 - 1e-6 / (p / scale + 1e-6)
    np.testing.assert_allclose(value, want, atol=1e-5)
  assert large < small


@pytest.mark.parametrize("name", ["focal", "boundary"])
def test_unknown_form_is_an_error(name):
  logits, targets, where = _batch()
  with pytest.raises(ValueError, match="'nonsense'"):
    getattr(losses, name)(logits, targets, **where, normaliser=1, form="nonsense")
  with pytest.raises(UserError, match="'nonsense'"):
    LossConfig(**{f"{name}_form": "nonsense"})


def test_terms_without_weight_are_left_out():
  logits, targets, where = _batch()
  cfg = LOSS_PRESETS["paper"]
  terms = losses.mask_losses(cfg, logits, targets, **where, normaliser=3)
  assert set(terms) == {"mask_bce", "dice"}


def test_a_predicted_iou_is_compared_with_that_of_the_mask():
  logits, targets = np.full((1, 2, 2, 2), -5.0), np.zeros((1, 2, 2, 2))
  logits[0, 0, 0], targets[0, 0, :, 0] = 5.0, 1  # a row against a column: 1 of 3
  error = losses.iou(
    logits,
    targets,
    predicted_BM=np.array([[0.5, 1.0]]),  # both masks of the second are empty
    seg_valid_BM=np.ones((1, 2)),
    normaliser=1,
  )
  np.testing.assert_allclose(error, (0.5 - 1 / 3) ** 2, atol=1e-6)


def test_a_predicted_iou_pulls_at_no_mask():
  def error(logits):
    predicted = np.full((3, 2), 0.3)
    return losses.iou(logits, targets, predicted_BM=predicted, **where, normaliser=1)

  logits, targets, where = _batch()
  assert not jax.grad(error)(logits).any()


def test_valid_pixels_follow_the_resolution():
  pixels = losses.valid_pixels(jnp.array([[64, 33]]), 4, 4, 64)
  want = np.zeros((4, 4), bool)
  want[:, :2] = True  # centres 8, 24 are inside 33 columns, 40 is not
  np.testing.assert_array_equal(pixels[0], want)


def _text(B=2, T=13, D=6, V=11):
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(B, T, D)).astype(np.float32)
  head = rng.normal(size=(D, V)).astype(np.float32)
  tokens = rng.integers(0, V, (B, T))
  return hidden, head, tokens, (rng.random((B, T)) < 0.5).astype(np.int32)


def test_token_ce_scores_each_marked_token_from_the_position_before():
  logits = np.zeros((1, 4, 3), np.float32)
  logits[0, 1] = [0, 0, 5]  # predicts tokens[2]
  tokens, loss_mask = np.array([[0, 1, 2, 1]]), np.array([[0, 0, 1, 0]])
  value = losses.token_ce(logits, tokens, loss_mask, normaliser=1)
  np.testing.assert_allclose(value, np.log(2 + np.exp(5)) - 5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
def test_chunked_token_ce_equals_the_plain_one(chunk):
  hidden, head, tokens, mask = _text()

  def plain(hidden, head):
    return losses.token_ce(hidden @ head, tokens, mask, normaliser=7)

  def chunked(hidden, head):
    return losses.chunked_token_ce(
      hidden, head, tokens, mask, normaliser=7, chunk=chunk
    )

  want, want_grads = jax.value_and_grad(plain, argnums=(0, 1))(hidden, head)
  value, grads = jax.value_and_grad(chunked, argnums=(0, 1))(hidden, head)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  for ours, other in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(ours, other, atol=1e-6)


def test_chunked_token_ce_never_holds_all_logits():
  hidden, head, tokens, mask = _text(B=2, T=512, D=4, V=500)

  def chunked(hidden, head):
    return losses.chunked_token_ce(hidden, head, tokens, mask, normaliser=1, chunk=8)

  step = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))
  memory = step.lower(hidden, head).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 4 * 2 * 512 * 500 / 4


@pytest.mark.parametrize("rows, chunk", [(1, 2048), (4, 512), (1000, 128)])
def test_a_chunk_has_as_many_positions_as_a_fixed_number_of_logits(rows, chunk):
  assert losses.positions_at_a_time(rows, 32_064) == chunk


def test_losses_are_float32_for_bfloat16_inputs():
  hidden, head, tokens, mask = _text()
  ce = losses.chunked_token_ce(
    jnp.asarray(hidden, jnp.bfloat16), head, tokens, mask, normaliser=1
  )
  logits, targets, where = _batch()
  half = jnp.asarray(logits, jnp.bfloat16)
  bce = losses.mask_bce(half, targets, **where, normaliser=1)
  assert ce.dtype == bce.dtype == jnp.float32


def test_chunked_token_ce_is_the_same_on_a_mesh():
  hidden, head, tokens, mask = _text(B=4, T=13, D=4, V=6)

  def ce(hidden, head):
    return losses.chunked_token_ce(hidden, head, tokens, mask, normaliser=7, chunk=4)

  step = jax.jit(jax.value_and_grad(ce, argnums=(0, 1)))
  want, want_grads = step(hidden, head)
  with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
    value, grads = step(hidden, head)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  for ours, other in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(ours, other, atol=1e-6)


def test_presence_is_whether_a_mask_has_a_pixel():
  targets = jnp.zeros((1, 3, 4, 4)).at[0, 0, 1, 1].set(0.25).at[0, 2, 3, 3].set(1)
  logits = jnp.array([[2.0, -1.0, 3.0]])
  pixels = jnp.ones((1, 4, 4), bool).at[0, 3, 3].set(False)  # the third is padding
  value = losses.presence(
    logits,
    targets,
    seg_valid_BM=jnp.array([[1, 1, 1]]),
    pixels_BHW=pixels,
    normaliser=1.0,
  )
  want = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)) + np.log1p(np.exp(3.0))
  np.testing.assert_allclose(value, want, rtol=1e-6)
