"""Whether what `fsdp` cuts is gathered once a step or at every use.

Gathered at every use, a frozen weight crosses the network twice a micro-batch, forward
and backward; gathered once, it takes its whole room on every device for the step.
"""

import math

import jax

from miras_jax.parallel import chips

CHOICES = ("auto", "on", "off")
SHARE = 0.6  # of a device's memory, for parameters and gradients; activations: the rest


def keep(choice, *, fsdp, accumulation, needed, capacity) -> bool:
  """`mesh.keep_gathered` decided.

  needed: bytes of a device for state, whole parameters and gradients. capacity: of its
  memory, or None where that is not known; "auto" then says no.
  """
  if fsdp == 1 or accumulation == 1 or choice == "off":
    return False
  return choice == "on" or bool(capacity) and needed <= SHARE * capacity


def decide(choice, state_shapes, mesh, accumulation) -> bool:
  """`keep` for a TrainState of shapes with shardings on a mesh of devices."""
  chip = chips.find(mesh.devices.flat[0].device_kind)
  return keep(
    choice,
    fsdp=mesh.shape["fsdp"],
    accumulation=accumulation,
    needed=needed_bytes(state_shapes, mesh),
    capacity=chip and chip.hbm_bytes,
  )


def needed_bytes(state_shapes, mesh):
  """Of a device: its state, every parameter whole along `fsdp`, gradients twice."""
  trainable, fsdp = jax.tree.leaves(state_shapes.trainable), mesh.shape["fsdp"]
  parameters = trainable + jax.tree.leaves(state_shapes.frozen)
  whole = sum(_bytes(x) * fsdp for x in parameters if _is_cut(x))
  gradients = sum(_bytes(x) * (fsdp if _is_cut(x) else 1) for x in trainable)
  state = sum(map(_bytes, jax.tree.leaves(state_shapes)))
  return state + whole + 2 * gradients


def _is_cut(x):
  return "fsdp" in str(x.sharding.spec)


def _bytes(x):
  """Of one device."""
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
