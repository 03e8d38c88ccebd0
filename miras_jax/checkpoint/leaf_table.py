"""Tables {path: [shape, dtype, fingerprint]} of a checkpoint, against a run's."""

import jax

from miras_jax.checkpoint import fingerprint
from miras_jax.errors import UserError
from miras_jax.models import trees


def check_architecture(folder, leaves, shapes):
  """UserError naming the first path that is not in both, or not of one shape."""
  wanted = {
    fingerprint.path_name(path): [list(leaf.shape), str(leaf.dtype)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  if wrong := fingerprint.first_mismatch(leaves, wanted):
    path, saved, ours = wrong
    raise UserError(
      f"{folder} is of another architecture: {path} is {_text(saved)} there and"
      f" {_text(ours)} in this config; take its config or another --workdir"
    )


def shapes_of(leaves, sharding):
  """Nested dict of ShapeDtypeStruct for a table of leaves.

  sharding: one for all, or (path of the parameter, shape, dtype) -> sharding; the first
  name of a leaf is that of its part ("trainable", "ema", "params").
  """
  flat = {}
  for path, (shape, dtype, _) in leaves.items():
    parameter = path.partition("/")[2]
    where = sharding(parameter, tuple(shape), dtype) if callable(sharding) else sharding
    struct = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)
    flat[tuple(path.split("/"))] = struct
  return trees.unflatten_dict(flat)


def _text(entry):
  return f"{entry[1]}{entry[0]}" if entry else "absent"
