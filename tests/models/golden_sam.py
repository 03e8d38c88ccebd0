"""Golden weights of the SAM parts in our parameter tree, and their config."""

import functools
import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.models.golden_llm import port
from tests.shared_data import GOLDEN


def encoder_params():
  return port().params["sam"]["encoder"]


def prompt_params():
  return port().params["sam"]["prompt_encoder"]


def decoder_params():
  return port().params["sam"]["decoder"]


def encoder_config():
  return port().cfg.sam_encoder


def decoder_config():
  return port().cfg.sam_decoder


def random_params(module, *args):
  """Random weights that keep activations near 1; no initialiser is compiled."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(0)

  def draw(path, shape):
    noise = rng.normal(size=shape).astype(np.float32)
    if path.endswith("kernel"):
      return noise / math.sqrt(np.prod(shape[:-1]))
    return 1 + 0.1 * noise if path.endswith("scale") else 0.3 * noise

  flat = flatten_dict(shapes, sep="/")
  return unflatten_dict({k: draw(k, x.shape) for k, x in flat.items()}, sep="/")


@functools.cache
def arrays(name):
  """All arrays of a golden .npz, e.g. arrays("outputs")["sam/block_0"]."""
  with np.load(GOLDEN / f"{name}.npz") as file:
    return dict(file)


def channels_last(x):
  """NCHW -> NHWC; leading axes are free."""
  return np.moveaxis(x, -3, -1)
