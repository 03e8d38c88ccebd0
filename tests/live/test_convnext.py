"""The ConvNeXt tower against timm: all four stages on one grid."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_jax.config.model import ConvNextConfig
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.models.convnext import ConvNext
from tests.live import reference
from tests.live.reference import torch

pytestmark = pytest.mark.torch


def check(*, dims, depths, image_size, grid, kernel_size=7, seed=0, compiled=True):
  timm = reference.import_timm()
  model = timm.ConvNeXt(
    depths=depths, dims=dims, kernel_sizes=kernel_size, num_classes=0, ls_init_value=0.1
  )
  reference.randomised(model, seed)
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(2, 3, image_size, image_size)).astype(np.float32)
  want = []
  with torch.no_grad():
    x = model.stem(torch.tensor(images))
    for stage in model.stages:
      x = stage(x)
      want.append(torch.nn.functional.interpolate(x, (grid, grid), mode="bilinear"))
  cfg = ConvNextConfig(
    dims=dims, depths=depths, image_size=image_size, target_grid=grid,
    kernel_size=kernel_size,
  )  # fmt: skip
  ours, x_BHWC = ConvNext(cfg), reference.nhwc(images)
  init = functools.partial(ours.init, jax.random.key(0), x_BHWC)
  params = reference.ported(model, KINDS["convnext"], init, part="convnext")
  # One by one, the operations of equal blocks are compiled once for all of them.
  apply = jax.jit(ours.apply) if compiled else ours.apply
  features = apply({"params": params}, x_BHWC)
  reference.close(reference.nchw(features), torch.cat(want, 1))


def test_the_shape_of_convnext_l():
  sizes = {"dims": (6, 12, 24, 48), "depths": (3, 3, 27, 3)}
  check(**sizes, image_size=96, grid=6, compiled=False)


@settings(max_examples=2, deadline=None, derandomize=True)
@given(
  dims=st.tuples(*[st.integers(1, 9)] * 4),
  depths=st.tuples(*[st.integers(1, 2)] * 4),
  image_size=st.sampled_from([32, 64]),
  grid=st.integers(1, 9),
  kernel_size=st.sampled_from([3, 7]),
  seed=st.integers(0, 9),
)
def test_random_towers(**sizes):
  check(**sizes)
