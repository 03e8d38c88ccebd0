import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from miras_jax.config.model import SamDecoderConfig
from miras_jax.config.variants import SAM_DECODER
from miras_jax.models.sam_decoder import (
  MaskDecoder,
  PatchDeconv,
  PromptEncoder,
  bilinear_matrix,
  postprocess,
)
from tests.models import golden_sam
from tests.shared_data import needs_golden

CFG = SamDecoderConfig(
  width=32, depth=2, mlp_width=48, num_heads=4, mask_channels=8, iou_width=16
)
GRID, SIDE = 4, 64
KINDS = ("points", "boxes", "masks", "text", "points_boxes", "all", "none")
# Row of the image that each decoded mask of the main batch belongs to.
IMAGE_OF_MASK = [0, 0, 2]


@pytest.fixture(scope="module")
def golden():
  return golden_sam.arrays("outputs")


def _golden_prompts(kind):
  """Arguments of PromptEncoder for a prompt kind: one image, two prompts."""
  inputs = golden_sam.arrays("inputs")
  points = (inputs["prompt_points"][None], inputs["prompt_point_labels"][None])
  every = {
    "points": points,
    "boxes": inputs["prompt_boxes"][None],
    "masks": inputs["prompt_mask_inputs"][None, :, 0],
    "text": inputs["prompt_text_embeds"][None],
  }
  kinds = {"points_boxes": ("points", "boxes"), "all": tuple(every), "none": ()}
  return {name: every[name] for name in kinds.get(kind, (kind,))}


def _golden_encoder():
  cfg = golden_sam.encoder_config()
  encoder = PromptEncoder(golden_sam.decoder_config(), cfg.grid, cfg.image_size)
  return encoder.bind({"params": golden_sam.prompt_params()})


@functools.cache
def _decoder(cfg, **kwargs):
  return jax.jit(functools.partial(MaskDecoder(cfg).apply, **kwargs))


def _golden_decode(features_BHWC, sparse, dense, **kwargs):
  pe, params = _golden_encoder().dense_pe(), golden_sam.decoder_params()
  run = _decoder(golden_sam.decoder_config(), **kwargs)
  return run({"params": params}, features_BHWC, pe, sparse, dense)


@needs_golden
def test_dense_position_code_agrees_with_the_reference(golden):
  want = golden_sam.channels_last(golden["sam/dense_pe"])
  np.testing.assert_allclose(_golden_encoder().dense_pe(), want, atol=1e-5)


@needs_golden
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_embeddings_agree_with_the_reference(golden, kind):
  sparse, dense = _golden_encoder()(**_golden_prompts(kind))
  np.testing.assert_allclose(
    sparse[0], golden[f"prompt_alone/{kind}/sparse"], atol=1e-5
  )
  want = golden_sam.channels_last(golden[f"prompt_alone/{kind}/dense"])
  np.testing.assert_allclose(np.broadcast_to(dense[0], want.shape), want, atol=1e-5)


@needs_golden
def test_text_prompts_of_the_main_batch_agree_with_the_reference(golden):
  sparse, dense = _golden_encoder()(text=golden["seg/embeddings"][None, :, None])
  np.testing.assert_allclose(sparse[0], golden["prompt/sparse"], atol=1e-5)
  want = golden_sam.channels_last(golden["prompt/dense"])
  np.testing.assert_allclose(np.broadcast_to(dense[0], want.shape), want, atol=1e-5)


@needs_golden
@pytest.mark.parametrize("mode", ["single", "multi"])
@pytest.mark.parametrize("kind", KINDS)
def test_decoded_prompts_agree_with_the_reference(golden, kind, mode):
  """Several prompts of one image share its features."""
  features = golden_sam.channels_last(golden["sam/image_embeddings"][:1])
  sparse, dense = _golden_encoder()(**_golden_prompts(kind))
  logits, iou, _ = _golden_decode(features, sparse, dense, multimask=mode == "multi")
  want = golden[f"prompt_alone/{kind}/low_res_{mode}"]
  np.testing.assert_allclose(logits[0], want, atol=1e-5)
  np.testing.assert_allclose(
    iou[0], golden[f"prompt_alone/{kind}/iou_{mode}"], atol=1e-5
  )


def _main_batch(golden):
  """Features of the image of each mask, and one text prompt each: B=3, M=1."""
  features = golden_sam.channels_last(golden["sam/image_embeddings"])[IMAGE_OF_MASK]
  return features, *_golden_encoder()(text=golden["seg/embeddings"][:, None, None])


@needs_golden
def test_main_batch_masks_and_iou_agree_with_the_reference(golden):
  logits, iou, _ = _golden_decode(*_main_batch(golden))
  np.testing.assert_allclose(logits[:, 0], golden["decoder/low_res_masks"], atol=1e-5)
  np.testing.assert_allclose(iou[:, 0], golden["decoder/iou_pred"], atol=1e-5)


@needs_golden
def test_inside_of_the_decoder_agrees_with_the_reference(golden):
  _, state = _golden_decode(*_main_batch(golden), capture_intermediates=True)
  inside = state["intermediates"]
  tokens, image = inside["transformer"]["__call__"][0]
  upscaled = inside["output_upscaling"]["__call__"][0]
  np.testing.assert_allclose(tokens[:, 0], golden["decoder/tokens_out"], atol=1e-5)
  np.testing.assert_allclose(image[:, 0], golden["decoder/image_out"], atol=1e-5)
  want = golden_sam.channels_last(golden["decoder/upscaled"])
  np.testing.assert_allclose(upscaled[:, 0], want, atol=1e-5)


@needs_golden
@pytest.mark.parametrize("mask", range(3))
def test_masks_at_original_size_agree_with_the_reference(golden, mask):
  inputs, image = golden_sam.arrays("inputs"), IMAGE_OF_MASK[mask]
  ours = postprocess(
    golden["decoder/low_res_masks"][mask],
    inputs["resize_list"][image],
    inputs["original_sizes"][image],
    golden_sam.encoder_config().image_size,
  )
  np.testing.assert_allclose(ours, golden[f"masks/pred_logits_{mask}"], atol=1e-5)


@needs_golden
@pytest.mark.parametrize("image", range(3))
def test_postprocess_agrees_with_the_reference(golden, image):
  inputs = golden_sam.arrays("inputs")
  ours = postprocess(
    golden["prompt_alone/text/low_res_multi"],
    inputs["resize_list"][image],
    inputs["original_sizes"][image],
    golden_sam.encoder_config().image_size,
  )
  np.testing.assert_allclose(ours, golden[f"postprocess/out_{image}"], atol=1e-5)


@needs_golden
@pytest.mark.parametrize("part", ["prompt", "decoder"])
def test_published_weights_fill_the_tree_exactly(part):
  cfg, grid = golden_sam.decoder_config(), golden_sam.encoder_config().grid
  if part == "prompt":
    args, module = (), PromptEncoder(cfg, grid, golden_sam.encoder_config().image_size)
    want = golden_sam.prompt_params()
  else:
    shapes = [(1, grid, grid), (1, grid, grid), (1, 1, 1), (1, 1, 1, 1)]
    args = [jnp.zeros((*shape, cfg.width)) for shape in shapes]
    module, want = MaskDecoder(cfg), golden_sam.decoder_params()
  ours = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  assert jax.tree.map(lambda x: x.shape, ours) == jax.tree.map(np.shape, want)


@functools.cache
def _encoder():
  encoder = PromptEncoder(CFG, GRID, SIDE)
  return encoder, {"params": golden_sam.random_params(encoder)}


@functools.cache
def _inputs():
  """Random weights and, of 2 images, features and 3 text prompts each."""
  encoder, variables = _encoder()
  rng = np.random.default_rng(1)
  features = rng.normal(size=(2, GRID, GRID, CFG.width)).astype(np.float32)
  text = rng.normal(size=(2, 3, 1, CFG.width)).astype(np.float32)
  sparse, dense = encoder.apply(variables, text=text)
  args = (features, encoder.apply(variables, method="dense_pe"), sparse, dense)
  return golden_sam.random_params(MaskDecoder(CFG), *args), *args


@functools.cache
def _inside():
  """Outputs of all modules in single-mask mode."""
  params, *args = _inputs()
  _, state = _decoder(CFG, capture_intermediates=True)({"params": params}, *args)
  return state["intermediates"]


@pytest.mark.parametrize("multimask, num_masks", [(False, 1), (True, 3)])
def test_batch_of_prompts_gives_static_shapes(multimask, num_masks):
  params, *args = _inputs()
  logits, iou, _ = _decoder(CFG, multimask=multimask)({"params": params}, *args)
  assert logits.shape == (2, 3, num_masks, 4 * GRID, 4 * GRID)
  assert iou.shape == (2, 3, num_masks)
  assert logits.dtype == iou.dtype == jnp.float32


@pytest.mark.parametrize("with_masks", [False, True])
def test_prompts_of_an_image_do_not_see_each_other(with_masks):
  params, features, pe, sparse, dense = _inputs()
  if with_masks:
    dense = jax.random.normal(jax.random.key(5), (2, 3, GRID, GRID, CFG.width))
  decode = _decoder(CFG)
  together, iou, _ = decode({"params": params}, features, pe, sparse, dense)
  for m in range(sparse.shape[1]):
    own = dense[:, m : m + 1] if with_masks else dense
    alone = decode({"params": params}, features, pe, sparse[:, m : m + 1], own)
    np.testing.assert_allclose(together[:, m : m + 1], alone[0], atol=1e-5)
    np.testing.assert_allclose(iou[:, m : m + 1], alone[1], atol=1e-5)


def test_single_mask_mode_runs_one_hypernetwork():
  run = [name for name in _inside() if "hypernetworks" in name]
  assert run == ["output_hypernetworks_0"]


def test_first_layer_projects_the_shared_image_once():
  """M prompts share the image until the first image-to-token attention."""
  layer = _inside()["transformer"]["layer_00"]
  keys = layer["cross_attn_token_to_image"]["k_proj"]["__call__"][0]
  queries = layer["cross_attn_image_to_token"]["q_proj"]["__call__"][0]
  assert keys.shape[:2] == queries.shape[:2] == (2, 1)


def test_single_mask_loss_trains_all_but_the_unused_heads():
  params, *args = _inputs()

  def loss(params):
    logits, _, _ = MaskDecoder(CFG).apply({"params": params}, *args)
    return (logits * jnp.cos(jnp.arange(logits.size).reshape(logits.shape))).sum()

  grads = flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
  still = {path.split("/")[0] for path, g in grads.items() if not np.abs(g).max() > 0}
  unused = {f"output_hypernetworks_{i}" for i in (1, 2, 3)}
  # Key biases shift every logit of a query alike: their gradient is rounding only.
  assert still - {"transformer"} == unused | {"iou_prediction_head"}


def test_position_code_is_never_trained():
  encoder, variables = _encoder()

  def loss(variables):
    boxes = jnp.array([[[4.0, 8.0, 30.0, 50.0]]])
    return encoder.apply(variables, boxes=boxes)[0].sum()

  grads = jax.jit(jax.grad(loss))(variables)["params"]
  np.testing.assert_array_equal(grads["pe"]["gaussian"], 0)
  assert np.abs(grads["point_embeddings_2"]).max() > 0


def test_full_size_parameter_counts():
  """Prompt encoder 6,476 and mask decoder 4,058,340 parameters, as published."""
  cfg, C = SAM_DECODER, SAM_DECODER.width
  half, small, K = C // 2, C // 8, SAM_DECODER.num_multimask + 1

  def linear(a, b):
    return a * b + b

  def attention(inner):
    return 3 * linear(C, inner) + linear(inner, C)

  layer = attention(C) + 2 * attention(half) + 4 * 2 * C
  layer += linear(C, cfg.mlp_width) + linear(cfg.mlp_width, C)
  decoder = cfg.depth * layer + attention(half) + 2 * C + (1 + K) * C
  decoder += linear(4 * C, C // 4) + 2 * (C // 4) + linear(4 * C // 4, small)
  decoder += K * (2 * linear(C, C) + linear(C, small))
  decoder += linear(C, cfg.iou_width) + linear(cfg.iou_width, cfg.iou_width)
  decoder += linear(cfg.iou_width, K)
  first, second = cfg.mask_channels // 4, cfg.mask_channels
  prompt = C + 6 * C  # position code; four points, no point, no mask
  prompt += linear(4, first) + 2 * first + linear(4 * first, second) + 2 * second
  prompt += linear(second, C)

  def count(module, *args):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))

  args = [
    jnp.zeros((*s, C)) for s in [(1, 64, 64), (1, 64, 64), (1, 1, 1), (1, 1, 1, 1)]
  ]
  assert count(PromptEncoder(cfg, 64, 1024)) == prompt == 6476
  assert count(MaskDecoder(cfg), *args) == decoder == 4_058_340


def test_mask_prompt_of_a_wrong_size_is_an_error():
  encoder, variables = _encoder()
  with pytest.raises(ValueError, match="mask prompts are 8x8, want 16x16"):
    encoder.apply(variables, masks=jnp.zeros((1, 1, 8, 8)))


def test_transposed_convolution_writes_disjoint_patches():
  x = jnp.arange(2.0).reshape(1, 1, 1, 2, 1)
  kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
  params = {"kernel": kernel, "bias": jnp.array([0.5])}
  y = PatchDeconv(1).apply({"params": params}, x)
  want = [[0.5, 0.5, 1.5, 2.5], [0.5, 0.5, 3.5, 4.5]]
  np.testing.assert_array_equal(y[0, 0, ..., 0], want)


def test_postprocess_never_reads_the_padding():
  low_res = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
  padded = low_res.copy()
  padded[:, 10:] = 1e6  # the valid 32 of 64 rows end at low-resolution row 8
  ours = postprocess(padded, (32, 64), (20, 40), image_size=64)
  np.testing.assert_array_equal(ours, postprocess(low_res, (32, 64), (20, 40), 64))


def test_bilinear_matrix_is_the_resize_of_jax():
  x = np.random.default_rng(0).normal(size=(11, 1)).astype(np.float32)
  for target in (5, 11, 23):
    want = jax.image.resize(x, (target, 1), "bilinear", antialias=False)
    np.testing.assert_allclose(bilinear_matrix(11, target) @ x, want, atol=1e-5)


def test_valid_region_outside_the_square_is_an_error():
  with pytest.raises(ValueError, match="valid=65 .*image_size=64"):
    postprocess(np.zeros((1, 16, 16)), (65, 64), (20, 40), image_size=64)
