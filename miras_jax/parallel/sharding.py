"""Which mesh axis every parameter and every array of a batch is cut along.

Parameters have one strict table; a batch follows the letters of `batch_table.TABLE`.

The first pattern that is found in a path wins. A path without one is an error; so is a
rule that names an unknown axis, and (tested on the full-size tree) a rule that nothing
uses. Kernels are `[in, out]`: `fsdp` cuts the input side, `tensor` the output side; the
matrices that read what `tensor` cut have it the other way round, so one all-reduce
closes each pair.

A dimension that its axis does not divide stays whole: `fit` drops the axis for that
dimension only, the same way on every host, and `replicated` lists what was dropped.
"""

import math
import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from input_pipeline import batch_table
from miras_jax.parallel.mesh import AXES, BATCH_AXES

# Embedding rows are rounded up, so that common mesh sizes divide them.
VOCAB_MULTIPLE = 64
# fmt: off
PARAM_RULES = (
    # Decoder; scanned layers have the layer axis first.
    (r"^llm/embed/embedding$",                            P("tensor", "fsdp")),
    (r"^llm/lm_head/kernel$",                             P("fsdp", "tensor")),
    (r"^llm/layers/.*/(q|k|v|gate|up)_proj/kernel$",      P(None, "fsdp", "tensor")),
    (r"^llm/layers/.*/(o|down)_proj/kernel$",             P(None, "tensor", "fsdp")),
    (r"^llm/layers/.*/lora_[ab]$",                        P()),
    # Towers: attention and mlp.
    (r"^clip/.*/(q|k|v)_proj/kernel$",                    P("fsdp", "tensor")),
    (r"^sam/encoder/.*/qkv/kernel$",                      P("fsdp", "tensor")),
    (r"^(clip|sam/encoder)/.*/(out_proj|proj)/kernel$",   P("tensor", "fsdp")),
    (r"^((clip|convnext|sam/encoder|projector)/.*fc1|projector/linear)/kernel$",
     P("fsdp", "tensor")),
    (r"^(clip|convnext|sam/encoder|projector)/.*fc2/kernel$", P("tensor", "fsdp")),
    # Convolutions [h, w, in, out]: small, only their output channels are cut.
    (r"^(clip|sam/encoder)/patch_embed/kernel$",          P(None, None, None, "fsdp")),
    (r"^convnext/.*dwconv/kernel$",                       P()),  # cut, it moves images
    (r"^convnext/.*conv/kernel$",                         P(None, None, None, "fsdp")),
    (r"^sam/encoder/neck/conv[12]/kernel$",               P(None, None, None, "fsdp")),
    (r"^sam/encoder/.*rel_pos_[hw]$",                     P()),
    (r"^(clip|sam/encoder)/(pos_embed|class_embed)$",     P()),
    (r"^mining/.*_proj/kernel$",                          P("fsdp", "tensor")),
    # From states to masks: small and trained, a copy everywhere.
    (r"^seg_prompt/text_fc1/kernel$",                     P("fsdp", "tensor")),
    (r"^seg_prompt/",                                     P()),
    (r"^sam/(prompt_encoder|decoder|fine)/",              P()),
    (r"^state(_tokens)?/",                                P()),
    (r"/(scale|bias|gamma)$",                             P()),
)
# fmt: on
# Along what each letter of a batch array's axes is cut; the other axes stay whole.
BATCH_RULES = {"B": BATCH_AXES}
# Where activations are told how to lie; everything else follows from these.
ACTIVATION_RULES = {
  "decoder": P(BATCH_AXES, "sequence"),  # [B, T, D] into the decoder and out of it
  "tower": P(BATCH_AXES),  # [B, ...] between the blocks of an image encoder
  "rows": P(BATCH_AXES),  # [B, ...] of conversations that are answered
  "cache": P(None, BATCH_AXES, "tensor"),  # [L, B, K, S, H] their keys and values
  "head_copies": P(BATCH_AXES, None, "tensor"),  # [G, D, V], one for each batch shard
}


def spec_for(path, rules=PARAM_RULES):
  """PartitionSpec of one path; ValueError when no rule matches."""
  return rules[_index(path, rules)][1]


def check_rules(paths, rules=PARAM_RULES):
  """Raises ValueError for an unknown axis, an uncovered path or an unused rule."""
  for pattern, spec in rules:
    unknown = [axis for axis in _axes(spec) if axis not in AXES]
    if unknown:
      raise ValueError(f"rule {pattern!r} names axis {unknown[0]!r}; there are {AXES}")
  used = {_index(path, rules) for path in paths}
  unused = [p for i, (p, _) in enumerate(rules) if i not in used]
  if unused:
    raise ValueError(f"sharding rules match no parameter: {unused}")


def fit(spec, shape, mesh):
  """The spec for this shape: an axis that does not divide its dimension is dropped."""
  if len(spec) > len(shape):
    raise ValueError(f"{spec} has more entries than {shape=}")
  kept = [
    axis if size % _size(axis, mesh) == 0 else None
    for axis, size in zip(spec, shape, strict=False)
  ]
  return P(*kept)


def param_shardings(shapes, mesh, rules=PARAM_RULES):
  """NamedSharding for every leaf of a nested dict of shapes."""
  flat = flatten_dict(shapes, sep="/")
  out = {
    path: NamedSharding(mesh, fit(spec_for(path, rules), leaf.shape, mesh))
    for path, leaf in flat.items()
  }
  return unflatten_dict(out, sep="/")


def replicated(shapes, mesh, rules=PARAM_RULES) -> list[str]:
  """Paths that lost an axis because it does not divide their dimension."""
  out = []
  for path, leaf in flatten_dict(shapes, sep="/").items():
    spec = spec_for(path, rules)
    if list(fit(spec, leaf.shape, mesh)) != list(spec):
      out.append(path)
  return out


def state_shardings(state_shapes, mesh, rules=PARAM_RULES):
  """Shardings of a TrainState: optimizer slots and averages lie as their parameter."""
  everywhere = replicated_sharding(mesh)
  params = {
    **flatten_dict(state_shapes.frozen, sep="/"),
    **flatten_dict(state_shapes.trainable, sep="/"),
  }

  def place(path, leaf):
    names = [str(getattr(k, "key", getattr(k, "name", ""))) for k in path]
    for start in range(len(names)):
      parameter = params.get("/".join(names[start:]))
      if parameter is not None and parameter.shape == leaf.shape:
        spec = spec_for("/".join(names[start:]), rules)
        return NamedSharding(mesh, fit(spec, leaf.shape, mesh))
    return everywhere

  return jax.tree.map_with_path(place, state_shapes)


def constrain(x, name):
  """`x` laid out as the table says; as it is where no mesh is set.

  Raises ValueError for a name that is not in the table.
  """
  if name not in ACTIVATION_RULES:
    raise ValueError(f"no activation {name!r}; there are {sorted(ACTIVATION_RULES)}")
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = P(*(still_whole(entry, mesh) for entry in ACTIVATION_RULES[name]))
  return jax.lax.with_sharding_constraint(x, fit(spec, x.shape, mesh))


def still_whole(entry, mesh):
  """An entry of a spec without the axes along which a `shard_map` around this has cut
  already: what is inside one is a part."""
  if entry is None:
    return None
  names = entry if isinstance(entry, tuple) else (entry,)
  return tuple(name for name in names if name not in mesh.manual_axes) or None


def any_part(flag):
  """A bool scalar, true where it is so in any part that a `shard_map` around this has
  cut the batch into: all devices then take the same branch."""
  axes = cut_by_hand()
  return jax.lax.psum(flag.astype(jnp.float32), axes) > 0 if axes else flag


def cut_by_hand() -> tuple[str, ...]:
  """The batch axes along which a `shard_map` around this has cut."""
  manual = jax.sharding.get_abstract_mesh().manual_axes
  return tuple(axis for axis in BATCH_AXES if axis in manual)


def activation_sharding(mesh, name, shape) -> NamedSharding:
  """Where `constrain` puts an array of this shape."""
  return NamedSharding(mesh, fit(ACTIVATION_RULES[name], shape, mesh))


def batch_shards(rows):
  """How many ways the mesh that is set cuts a batch (what a `shard_map` around this has
  left whole of it); 1 where it does not divide it."""
  mesh = jax.sharding.get_abstract_mesh()
  shards = 1 if mesh.empty else _size(still_whole(BATCH_AXES, mesh), mesh)
  return 1 if rows % shards else shards


def batch_sharding(mesh, name=None) -> NamedSharding:
  """Of the batch array `name`; one that is not in the table is cut along axis 0."""
  array = batch_table.TABLE.get(name)
  axes = [BATCH_RULES.get(axis) for axis in (array.axes if array else ("B",))]
  while axes and axes[-1] is None:
    axes.pop()
  return NamedSharding(mesh, P(*axes))


def batch_shardings(mesh, names) -> dict[str, NamedSharding]:
  """{name: sharding} of the arrays of a batch."""
  return {name: batch_sharding(mesh, name) for name in names}


def replicated_sharding(mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, P())


def _index(path, rules):
  for i, (pattern, _) in enumerate(rules):
    if re.search(pattern, path):
      return i
  raise ValueError(f"no sharding rule matches {path!r}")


def _axes(spec):
  for entry in spec:
    if entry is not None:
      yield from (entry if isinstance(entry, tuple) else (entry,))


def _size(entry, mesh):
  if entry is None:
    return 1
  names = entry if isinstance(entry, tuple) else (entry,)
  return math.prod(mesh.shape[name] for name in names)
