"""A model cut over eight simulated devices says what it says on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.errors import UserError
from miras_jax.inference import devices, generate, placement
from miras_jax.inference.prepare import prepare
from miras_jax.models.miras import Miras
from tests import tiny_loaded
from tests.inference import test_rollout

AXES = jax.sharding.PartitionSpec


def on_mesh(text, weights="trained"):
  """The tiny model as `open_checkpoint` gives it with --mesh."""
  loaded, mesh = tiny_loaded.loaded(), devices.make(devices.parse(text))
  place = placement.Placement(mesh)
  params = unflatten_dict({
    path: jax.device_put(np.array(x), place("/".join(path), x.shape, x.dtype))
    for path, x in flatten_dict(loaded.params).items()
  })  # fmt: skip
  cfg, params = prepare(loaded.model.cfg, params, weights)
  return loaded._replace(model=Miras(cfg), params=params, mesh=mesh)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["data:4,fsdp:2", "fsdp:2,tensor:4"])
def test_eight_devices_say_what_one_says(text):
  alone = test_rollout.said(test_rollout.JOBS, 4)
  loaded = on_mesh(text)
  for found, want in zip(
    test_rollout.said(test_rollout.JOBS, devices.fill(4, loaded.mesh), loaded),
    alone,
    strict=True,
  ):
    assert [a.text for a in found] == [a.text for a in want]
    for a, b in zip(found, want, strict=True):
      np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_layers_lie_as_the_table_cuts_their_stack():
  llm = on_mesh("data:2,fsdp:2,tensor:2", "int8").params["llm"]
  q, down = llm["layer_1"]["attn"]["q_proj"], llm["layer_0"]["mlp"]["down_proj"]
  assert q["kernel"].sharding.spec == AXES("fsdp", "tensor")
  assert q["kernel_scale"].sharding.spec == AXES("tensor")
  assert down["kernel"].sharding.spec == AXES("tensor", "fsdp")


@pytest.mark.parametrize("text", ["", "data:8"])
def test_images_are_encoded_in_parts_of_a_bounded_size(monkeypatch, text):
  image = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4, 4, 3)))
  monkeypatch.setattr(generate, "MOST_PIXELS", 16)
  seen = []

  def encode(part, scale):
    seen.append(part.shape)
    return part.sum((1, 2)) * scale[:, None]

  def run(*args):
    return generate._in_parts(encode, *args)

  scale = jnp.arange(16.0)
  if text:
    with jax.set_mesh(devices.make(devices.parse(text))):
      found = jax.jit(run)(image, scale)
  else:
    found = run(image, scale)
  np.testing.assert_allclose(found, image.sum((1, 2)) * scale[:, None], rtol=1e-6)
  assert set(seen) == {(8 if text else 1, 4, 4, 3)}


@pytest.mark.parametrize(
  "text, message",
  [
    ("dta:2", "no axis 'dta'; did you mean 'data'"),
    ("data", "--mesh=data: want data:SIZE"),
    ("data:0", "want data:SIZE, at least 1"),
    ("data:2,data:2", "data is given twice"),
    ("data:-1,fsdp:-1", "only one axis can take the rest"),
    ("data:9", "--mesh wants 9 devices, there are 8"),
    ("data:3,fsdp:-1", "does not fit 8 device"),
  ],
)
def test_a_mesh_that_cannot_be_is_one_line(text, message):
  with pytest.raises(UserError, match=message):
    devices.make(devices.parse(text))


def test_a_batch_is_filled_up_to_what_the_mesh_cuts():
  mesh = devices.make(devices.parse("data:4,fsdp:2"))
  assert [devices.fill(n, mesh) for n in (1, 8, 9)] == [8, 8, 16]
  assert devices.fill(5, None) == 5


def test_parameters_past_a_devices_memory_are_refused_before_they_are_read(monkeypatch):
  monkeypatch.setattr(placement, "memory_of", lambda device: 100)
  one, four = (
    placement.Placement(devices.make(devices.parse(text)))
    for text in ("data:1", "fsdp:4")
  )
  kernel = ("llm/lm_head/kernel", (8, 8), np.float32)
  four(*kernel)
  with pytest.raises(UserError, match="--mesh=fsdp:4"):
    one(*kernel)
