"""The golden vision towers in our parameter tree, and their inputs and outputs."""

import numpy as np

from tests.models.golden_llm import arrays, port


def clip_params():
  return port().params["clip"]


def convnext_params():
  return port().params["convnext"]


def fusion_params():
  """{"mining": ..., "projector": ...}"""
  return {name: port().params[name] for name in ("mining", "projector")}


def clip_config():
  return port().cfg.clip


def convnext_config():
  return port().cfg.convnext


def images(name):
  """A golden NCHW image input as NHWC, one row per conversation."""
  inputs = arrays("inputs.npz")
  image_of_row = np.repeat(
    np.arange(len(inputs["offset"]) - 1), np.diff(inputs["offset"])
  )
  return inputs[name].transpose(0, 2, 3, 1)[image_of_row]


def output_of(seen, name):
  """The output of submodule `name` that `capture_intermediates=True` recorded."""
  return seen["intermediates"][name]["__call__"][0]


def nhwc(name):
  """A golden NCHW feature map of outputs.npz as NHWC."""
  return arrays("outputs.npz")[name].transpose(0, 2, 3, 1)
