"""SAM against transformers: encoder, every prompt, one mask and several, IoU head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_jax.config.model import SamDecoderConfig, SamEncoderConfig
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.models.sam import Sam
from tests.live import reference
from tests.live.reference import torch

transformers = pytest.importorskip("transformers")
sam_config = pytest.importorskip("miras_jax.benchmarks.torch_side").sam_config
pytestmark = pytest.mark.torch

B, M, P = 2, 2, 3  # images, prompts of one, points of a prompt


def configs(*, heads, head_dim, depth, global_layers, grid, patch, window, width):
  encoder = SamEncoderConfig(
    image_size=grid * patch, patch_size=patch, width=heads * head_dim, depth=depth,
    num_heads=heads, global_layers=global_layers, window_size=window, out_width=width,
  )  # fmt: skip
  decoder = SamDecoderConfig(
    width=width, depth=2, mlp_width=40, num_heads=2, mask_channels=8, iou_width=24
  )
  return encoder, decoder


def their_model(encoder, decoder, seed):
  model = transformers.SamModel(sam_config(encoder, decoder))
  model.set_attn_implementation("eager")
  return reference.randomised(model, seed)


def prompts(rng, size, grid):
  """{name: (our argument, their arguments)}."""
  points = (rng.random((B, M, P, 2)) * size).astype(np.float32)
  labels = rng.integers(-1, 2, (B, M, P))
  corner = rng.random((B, M, 2)) * size / 2
  boxes = np.concatenate([corner, corner + size / 3], -1).astype(np.float32)
  # Theirs has one mask an image, ours one a prompt.
  masks = rng.normal(size=(B, 1, 4 * grid, 4 * grid)).astype(np.float32)
  return {
    "points": ((points, labels), {"input_points": points, "input_labels": labels}),
    "boxes": (boxes, {"input_boxes": boxes}),
    "masks": (np.repeat(masks, M, axis=1), {"input_masks": masks}),
  }


def check(kinds, *, seed=0, **sizes):
  encoder, decoder = configs(**sizes)
  model = their_model(encoder, decoder, seed)
  rng = np.random.default_rng(seed)
  size, grid = encoder.image_size, encoder.grid
  images = rng.normal(size=(B, 3, size, size)).astype(np.float32)
  with torch.no_grad():
    want = model.get_image_embeddings(torch.tensor(images))
  ours = Sam(encoder, decoder)
  text = {"text": jnp.zeros((1, 1, 1, decoder.width))}

  def whole(module, image_BHWC):
    return module.decode(module.encode(image_BHWC), text)

  init = functools.partial(
    ours.init, jax.random.key(0), reference.nhwc(images), method=whole
  )
  params = reference.ported(model, KINDS["sam-hf"], init, part="sam")
  variables = {"params": params}
  # One by one, the operations of equal blocks are compiled once for all of them.
  features = ours.apply(variables, reference.nhwc(images), method="encode")
  reference.close(reference.nchw(features), want)

  every = prompts(rng, size, grid)
  for kind in kinds:
    names = kind.split("+")
    given = {name: every[name][0] for name in names}
    theirs = {k: torch.tensor(x) for name in names for k, x in every[name][1].items()}
    decoded = both_modes(ours, variables, features, given)
    for multimask, (logits, iou, _) in decoded.items():
      with torch.no_grad():
        found = model(image_embeddings=want, multimask_output=multimask, **theirs)
      reference.close(logits, found.pred_masks)
      reference.close(iou, found.iou_scores)


@functools.partial(jax.jit, static_argnums=0)
def both_modes(sam, variables, features, given):
  """{multimask: Decoded}."""
  options = {"method": "decode"}
  return {
    multimask: sam.apply(variables, features, given, multimask=multimask, **options)
    for multimask in (False, True)
  }


# Depth, heads and global layers as published; widths of a few channels a head.
SHAPES = {
  "b": dict(depth=12, heads=12, global_layers=(2, 5, 8, 11)),
  "l": dict(depth=24, heads=16, global_layers=(5, 11, 17, 23)),
  "h": dict(depth=32, heads=16, global_layers=(7, 15, 23, 31)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_published_shapes(shape):
  kinds = ("points", "points+boxes+masks") if shape == "b" else ()
  check(kinds, head_dim=4, grid=8, patch=16, window=3, width=16, **SHAPES[shape])


@settings(max_examples=2, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_shapes(data):
  def draw(*values):
    return data.draw(st.sampled_from(values))

  depth = draw(1, 3)
  layers = tuple(i for i in range(depth) if draw(True, False))
  check(
    (draw("boxes", "points+boxes"),),
    depth=depth, heads=draw(1, 2), head_dim=draw(4, 6), global_layers=layers,
    grid=draw(4, 5), patch=draw(4, 8), window=draw(2, 3), width=draw(16, 32),
    seed=draw(0, 1, 2),
  )  # fmt: skip
