"""A 7B step as it would go to an NVIDIA GPU: lowered for CUDA here, without one.

What cuDNN would refuse is refused by JAX while it lowers, if it takes these devices for
a Hopper GPU with cuDNN 9.10: said so below.
"""

import collections
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from miras_jax.config import file as config_file
from miras_jax.models import sam_attention, trees
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning.fit import fit
from miras_jax.scale import programs

HEAD = 32_064  # rows of the output head, the one part of the decoder that trains whole
LAYERS = {(4096, 4096), (4096, 11_008), (11_008, 4096)}
_TENSOR = re.compile(r"tensor<((?:\d+x)*)(\w+)>")


@pytest.fixture(scope="module")
def step():
  """(text of the lowered train step, its TrainState of shapes)."""
  one_row = [("batch_size", "1"), ("optim.accumulation", "1")]
  config = config_file.read("miras_7b_stage2:attention=cudnn", one_row)
  config, _ = fit(config, 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "gpu")
    patch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    patch.setattr(cudnn, "check_compute_capability", lambda _: True)
    patch.setattr(sam_attention, "cudnn_takes", lambda x: jnp.dtype(x).itemsize == 2)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
      build = programs.build("train", config, mesh)
      traced = build.jitted.trace(*build.shapes)
      text = traced.lower(lowering_platforms=("cuda",)).as_text()
  return text, build.shapes[0]


def operations(text, name):
  """[[(dims, type) of each operand and of the result]] of one operation."""
  lines = re.findall(rf"stablehlo\.{name} .*?: (\(.*)", text)
  return [
    [(tuple(int(d) for d in dims.split("x")[:-1]), kind) for dims, kind in found]
    for found in map(_TENSOR.findall, lines)
  ]


def test_attention_of_the_decoder_and_of_sam_goes_to_cudnn(step):
  calls = collections.Counter(re.findall(r"custom_call @__cudnn\$(\w+)", step[0]))
  assert calls == {
    "fmhaSoftmax": 8,  # SAM: four runs of windowed layers, four global ones between
    "fmhaScaleBiasSoftmax": 2,  # the decoder's layers, and again in the backward pass
    "fmhaScaleBiasSoftmaxBackward": 1,
  }


def test_no_layer_of_the_decoder_multiplies_in_float32(step):
  products = operations(step[0], "dot_general")
  wide = [p for p in products if any(kind == "f32" for _, kind in p[:2])]
  assert wide, "the mask decoder's, in float32, are there"
  layers = [p for p in wide if any(dims[-2:] in LAYERS for dims, _ in p)]
  assert layers == []
  rows = [p for p in wide if any(dims[-2:] == (1536, 4096) for dims, _ in p)]
  assert all(any(HEAD in dims for dims, _ in p) for p in rows)


def test_no_frozen_weight_is_converted(step):
  text, state = step
  size = collections.Counter(x.shape for x in jax.tree.leaves(state.trainable))
  frozen = {x.shape for x in jax.tree.leaves(state.frozen) if x.size >= 2**20}
  frozen |= {shape[1:] for shape in frozen if len(shape) > 2}
  frozen.discard((1, 64, 64, 1280))  # SAM's positions, whose shape a picture has
  assert (4096, 11_008) in frozen
  made = collections.Counter(
    operands[0][0]
    for operands in operations(text, "convert")
    if operands[0][1] == "bf16" and operands[0][0] in frozen
  )
  # A gradient of what trains may have the shape of something frozen.
  assert all(count <= size[shape] for shape, count in made.items()), made


def test_what_is_small_stays_float32_and_what_is_large_does_not(step):
  kinds = {
    (path, leaf.dtype.name)
    for path, leaf in zip(
      trees.paths_of(step[1].frozen), jax.tree.leaves(step[1].frozen), strict=True
    )
    if leaf.size >= 2**20
  }
  assert {kind for _, kind in kinds} == {"bfloat16"}


@pytest.mark.parametrize(
  "capability, dtype, takes",
  [("9.0", "bfloat16", True), ("10.0", "float16", True), ("9.0", "float32", False),
   ("8.0", "bfloat16", False), ("gfx90a", "bfloat16", False), (None, "float16", False)],
)  # fmt: skip
def test_sam_goes_to_cudnn_on_hopper_in_half_precision(
  monkeypatch, capability, dtype, takes
):
  class Device:
    pass

  device = Device()
  if capability:
    device.compute_capability = capability
  monkeypatch.setattr(jax, "devices", lambda: [device])
  assert sam_attention.cudnn_takes(jnp.dtype(dtype)) is takes
