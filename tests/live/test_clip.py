"""The CLIP tower against transformers, every hidden state."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_jax.config.model import ClipConfig
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.models.clip_vit import ClipVit
from tests.live import reference
from tests.live.reference import torch

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


def check(
  *, heads, head_dim, depth, grid, patch, mlp_width, select_layer=-2, seed=0,
  activation="quick_gelu",
):  # fmt: skip
  cfg = ClipConfig(
    width=heads * head_dim, mlp_width=mlp_width, depth=depth, num_heads=heads,
    image_size=grid * patch, patch_size=patch, select_layer=select_layer,
    activation=activation,
  )  # fmt: skip
  model = transformers.CLIPVisionModel(
    transformers.CLIPVisionConfig(
      hidden_size=cfg.width,
      intermediate_size=cfg.mlp_width,
      num_hidden_layers=depth,
      num_attention_heads=heads,
      image_size=cfg.image_size,
      patch_size=patch,
      hidden_act=activation,
      layer_norm_eps=cfg.norm_eps,
      attn_implementation="eager",
    )  # fmt: skip
  )
  reference.randomised(model, seed)
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(2, 3, cfg.image_size, cfg.image_size)).astype(np.float32)
  with torch.no_grad():
    want = model(torch.tensor(images), output_hidden_states=True).hidden_states
  ours, x_BHWC = ClipVit(cfg), reference.nhwc(images)
  init = functools.partial(ours.init, jax.random.key(0), x_BHWC)
  params = reference.ported(model, KINDS["clip"], init, part="clip")
  # As published: the class token is dropped.
  reference.close(ours.apply({"params": params}, x_BHWC), want[select_layer][:, 1:])


@pytest.mark.parametrize("select_layer", [-1, -2])
def test_the_shape_of_vit_l(select_layer):
  check(
    heads=16, head_dim=4, depth=24, grid=4, patch=14, mlp_width=96,
    select_layer=select_layer,
  )  # fmt: skip


def test_a_tower_with_plain_gelu():
  sizes = dict(heads=2, head_dim=8, depth=3, grid=2, patch=4, mlp_width=32)
  check(**sizes, activation="gelu")


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
  heads=st.integers(1, 4),
  head_dim=st.sampled_from([3, 8]),
  depth=st.integers(2, 4),
  grid=st.integers(1, 4),
  patch=st.sampled_from([4, 7]),
  mlp_width=st.sampled_from([5, 32]),
  seed=st.integers(0, 9),
)
def test_random_towers(**sizes):
  check(**sizes)
