"""`--config=FILE[:options]`, `--config.a.b=value`: find, load and change a config."""

import ast
import collections
import difflib
import importlib.util
import pathlib
import traceback

import ml_collections

from input_pipeline import mixtures
from miras_jax.config.run import RunConfig, base_config, settings
from miras_jax.errors import UserError
from miras_jax.options import local_path

# Groups below which any name is possible: what they lead to checks it.
FREE = {
  "model.overrides": "PART.FIELD=VALUE",
  "mixture": "NAME=WEIGHT",
  "sources": "NAME=PLACE",
}


def load(argument: str) -> ml_collections.ConfigDict:
  """ "configs/x.py:size=tiny" -> what its `get_config("size=tiny")` returns.

  FILE is a path, or a name of the configs that come with the package. The config.json
  of a run will do as well: it repeats that run.
  """
  name, _, options = argument.partition(":")
  path = find(name)
  if path.suffix == ".json":
    return _read_json(path).to_config_dict()
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  if spec is None:
    raise UserError(f"--config={path}: want a Python file or the config.json of a run")
  module = importlib.util.module_from_spec(spec)
  _run(path, lambda: spec.loader.exec_module(module))
  if not hasattr(module, "get_config"):
    raise UserError(f"{path}: no function get_config(options) in it")
  config = _run(path, lambda: module.get_config(options))
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f"{path}: get_config returns a {type(config).__name__}, want a ConfigDict as"
      " configs.common.base_config() makes it"
    )
  return config


def _read_json(path):
  try:
    return RunConfig.from_json(path.read_text(encoding="utf-8"))
  except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
    raise UserError(f"{path}: not the config.json of a run: {error}") from None


def _run(path, call):
  """Runs a user's config; its mistakes are one line that names file and line."""
  try:
    return call()
  except UserError:
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)
    line = error.lineno if isinstance(error, SyntaxError) else line
    text = " ".join(str(error).split())
    raise UserError(f"{path}:{line or 1}: {type(error).__name__}: {text}") from error


def find(name: str) -> pathlib.Path:
  """Path of a config: relative to here, else among the installed ones.

  Another folder's name is never taken for the package's own config of that name.
  """
  path = pathlib.Path(local_path(name))
  if path.is_file():
    return path
  installed = installed_dir()
  if path.parent in (pathlib.Path("."), pathlib.Path("configs")):
    for candidate in (installed / path.name, installed / f"{path.name}.py"):
      if candidate.is_file():
        return candidate
  names = sorted(
    p.stem for p in installed.glob("*.py") if p.stem not in ("__init__", "common")
  )
  raise UserError(f"no config {name!r}; the package has {', '.join(names)}")


def installed_dir() -> pathlib.Path:
  return pathlib.Path(importlib.util.find_spec("configs").origin).parent


def override(config, path, text) -> None:
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
      if last in node:  # its type is that of the model's field
        del node[last]
      node[last] = text if parents == ["sources"] else _literal(text)
    return
  if path == "mixture":
    config.mixture = ml_collections.ConfigDict(_mixture(text))
    return
  if path in FREE:
    raise UserError(f"--config.{path} is a group; set one of {path}.{FREE[path]}")
  value = _child(config, node, last, path)
  if isinstance(value, ml_collections.ConfigDict):
    inside = ", ".join(f"{path}.{k}" for k in value)
    raise UserError(f"--config.{path} is a group; set one of {inside}")
  kind = node.get_type(last)
  try:
    node[last] = convert(text, kind, f"--config.{path}")
  except TypeError:  # a literal of another type
    raise UserError(
      f"--config.{path}={text}: want a value of type {kind.__name__}"
    ) from None


def described() -> str:
  """A line for every field: its default, what it is and the values there are."""
  lines = []
  for one in settings():
    if one.option in FREE:
      option = f"--config.{one.option}.{FREE[one.option]}"
    else:
      option = f"--config.{one.option}={'' if one.default is None else one.default}"
    choices = f" ({', '.join(one.choices)})" if one.choices else ""
    lines.append(f"{option:42} {one.help}{choices}")
  return "\n".join(lines)


def split_fields(argv) -> tuple[list[str], list[tuple[str, str]]]:
  """(argv without its config fields, [(a.b, VALUE)] of these).

  A field is `--config.a.b=VALUE` or `--config.a.b VALUE`.
  """
  rest, fields, left = [], [], collections.deque(argv)
  while left:
    option = left.popleft()
    name, equals, value = option.partition("=")
    if not name.startswith("--config."):
      rest.append(option)
      continue
    if not equals:
      if not left or left[0].startswith("--"):
        raise UserError(f"{name}: want {name}=VALUE")
      value = left.popleft()
    fields.append((name.removeprefix("--config."), value))
  return rest, fields


def read(argument: str, fields=()) -> RunConfig:
  """The run of `--config=ARGUMENT` with fields [(a.b, VALUE)] changed."""
  config = load(argument)
  for name, value in fields:
    override(config, name, value)
  return _from_config_dict(argument, config)


def _from_config_dict(argument, config):
  known = set(fields(base_config()))
  for path in fields(config):
    if path not in known and not path.startswith(tuple(FREE)):
      raise UserError(f"{argument}: {_unknown(path, known)}")
  return RunConfig.from_config_dict(config)


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
  return ".".join(parents[:2]) in FREE or parents[:1] in (["mixture"], ["sources"])


def _mixture(text):
  """{name: weight} of a mixture that is given as one value."""
  found = mixtures.parse(text)
  found = _literal(text) if found is None else found
  if not isinstance(found, dict):
    raise UserError(
      f"--config.mixture={text}: want NAME:WEIGHT,NAME:WEIGHT, or one of"
      f" {', '.join(mixtures.PRESETS)}"
    )
  return found


def _child(config, node, name, path):
  if name in node:
    return node[name]
  raise UserError(_unknown(path, list(fields(config))))


def _unknown(path, known):
  close = difflib.get_close_matches(path, known, n=1)
  # A name that exists elsewhere (`--config.lr`) is closer than any spelling.
  same = [k for k in sorted(known) if k.split(".")[-1] == path.split(".")[-1]]
  near = [f"did you mean --config.{k}?" for k in same or close]
  hint = near[0] if near else "miras train --help lists what there is"
  return f"unknown option --config.{path}; {hint}"


def _literal(text):
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return text
