"""Fields of a MirasConfig by dotted path: `with_overrides` changes them."""

import dataclasses
import typing

from miras_jax.config.model import RopeScaling


def with_overrides(cfg, overrides):
  """Returns `cfg` with dotted fields replaced, e.g. {"llama.vocab_size": 600}.

  Fields of one part change together, so that the order does not matter. Raises
  ValueError naming the field when it does not exist.
  """
  tree = {}
  for path, value in overrides.items():
    *parents, last = path.split(".")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
      if not isinstance(node, dict):
        raise ValueError(f"{name!r} has a value and, in {path!r}, fields")
    node[last] = tuple(value) if isinstance(value, list) else value
  return _replace(cfg, tree)


def _check_kind(path, field, before, value):
  """ValueError unless `value` is of the type of `before` and of its items."""
  if dataclasses.is_dataclass(before) and value is not None:
    names = ", ".join(f.name for f in dataclasses.fields(before))
    raise ValueError(f"{path}={value!r}: it is a part with the fields {names}")
  if before is None or value is None:
    # `X | None` has both in its arguments; no other field may be empty.
    kinds = typing.get_args(field.type)
    if type(None) not in kinds or not isinstance(value, kinds):
      raise ValueError(f"{path}={value!r}: want a value of type {field.type}")
    return
  _check_type(path, value, before)
  if isinstance(before, tuple) and before:
    for item in value:
      _check_type(path, item, before[0])


def _check_type(path, value, like):
  kind = type(like)
  kinds = (int, float) if kind is float else (kind,)
  if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
    raise ValueError(f"{path}={value!r}: want a value of type {kind.__name__}")


def _replace(cfg, tree, prefix=""):
  fields = {f.name: f for f in dataclasses.fields(cfg)}
  changes = {}
  for name, value in tree.items():
    if name not in fields:
      raise ValueError(f"no field {prefix + name!r} in the model config")
    before, nested = getattr(cfg, name), isinstance(value, dict)
    if nested and name == "rope_scaling" and before is None:
      value = RopeScaling(**value)
    elif nested and not dataclasses.is_dataclass(before):
      path = ".".join([prefix + name, *map(str, list(value)[:1])])
      raise ValueError(f"no field {path!r} in the model config")
    elif nested:
      value = _replace(before, value, f"{prefix}{name}.")
    else:
      _check_kind(prefix + name, fields[name], before, value)
    changes[name] = value
  return dataclasses.replace(cfg, **changes)
