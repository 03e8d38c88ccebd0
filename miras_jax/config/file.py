"""`--config=FILE[:options]`, `--config.a.b=value`: find, load and change a config."""

import ast
import difflib
import functools
import importlib.util
import inspect
import pathlib
import re

import ml_collections

from configs import common
from miras_jax.errors import UserError


def load(argument):
  """ "configs/x.py:size=tiny" -> what its `get_config("size=tiny")` returns.

  FILE is a path, or a name of the configs that come with the package.
  """
  name, _, options = argument.partition(":")
  path = find(name)
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UserError(f"{path}: no function get_config(options) in it")
  return module.get_config(options)


def find(name):
  """Path of a config: relative to here, else among the installed ones."""
  path = pathlib.Path(name)
  if path.is_file():
    return path
  installed = installed_dir()
  for candidate in (installed / path.name, installed / f"{path.name}.py"):
    if candidate.is_file():
      return candidate
  names = sorted(
    p.stem for p in installed.glob("*.py") if p.stem not in ("__init__", "common")
  )
  raise UserError(f"no config {name!r}; the package has {', '.join(names)}")


def installed_dir():
  return pathlib.Path(importlib.util.find_spec("configs").origin).parent


def override(config, path, text):
  """Sets the dotted field `path` to what `text` means for the field's type.

  Raises UserError naming an unknown field and the nearest valid one.
  """
  *parents, last = path.split(".")
  node = config
  for i, name in enumerate(parents):
    if _is_free(parents[: i + 1]) and name not in node:
      node[name] = ml_collections.ConfigDict()
    node = _child(config, node, name, path)
    if not isinstance(node, ml_collections.ConfigDict):
      raise UserError(f"--config.{path}: {'.'.join(parents[: i + 1])} has no fields")
  if _is_free(parents):
    with node.unlocked():
      node[last] = _literal(text)
    return
  value = _child(config, node, last, path)
  if isinstance(value, ml_collections.ConfigDict):
    inside = ", ".join(f"{path}.{k}" for k in value)
    raise UserError(f"--config.{path} is a group; set one of {inside}")
  node[last] = convert(text, node.get_type(last), f"--config.{path}")


def described():
  """A line for every field: its default and what configs/common.py says of it."""
  source = inspect.getsource(common.base_config)
  notes = dict(re.findall(r"(\w+) ?= ?.*  # (.*)", source))
  flat = common.base_config().to_dict()
  lines = []
  for path in fields(common.base_config()):
    value = functools.reduce(lambda node, name: node[name], path.split("."), flat)
    option = f"--config.{path}={'' if value is None else value}"
    lines.append(f"{option:42} {notes.get(path.split('.')[-1], '')}".rstrip())
  return "\n".join(lines)


def split_fields(argv):
  """(argv without `--config.a.b=VALUE`, [(a.b, VALUE)] of these)."""
  rest, fields = [], []
  for option in argv:
    name, equals, value = option.partition("=")
    if name.startswith("--config.") and equals:
      fields.append((name.removeprefix("--config."), value))
    else:
      rest.append(option)
  return rest, fields


def convert(text, kind, name):
  """`text` as a value of type `kind`; UserError otherwise."""
  try:
    if kind is bool:
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if kind in (int, float, str):
      return kind(text)
    return _literal(text)
  except (ValueError, KeyError):
    raise UserError(f"{name}={text}: want a value of type {kind.__name__}") from None


def fields(config, prefix=""):
  """Dotted names of every field."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from fields(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}"


def _is_free(parents):
  """Below model.overrides any name is possible: the model's dataclasses check it."""
  return parents[:2] == ["model", "overrides"]


def _child(config, node, name, path):
  if name in node:
    return node[name]
  known = list(fields(config))
  close = difflib.get_close_matches(path, known, n=1)
  # A name that exists elsewhere (`--config.lr`) is closer than any spelling.
  same = [k for k in known if k.split(".")[-1] == path.split(".")[-1]]
  near = [f"did you mean --config.{k}?" for k in same or close]
  hint = near[0] if near else "configs/common.py lists what there is"
  raise UserError(f"unknown option --config.{path}; {hint}")


def _literal(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
