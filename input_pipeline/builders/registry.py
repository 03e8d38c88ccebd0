"""The builders by name: `miras data build NAME`. A new source is a module and a row."""

import importlib
import inspect

from input_pipeline.builders.builder import Builder
from miras_jax.errors import UserError

# name: (module, class, arguments)
BUILDERS: dict[str, tuple[str, str, dict]] = {
  "own": ("input_pipeline.builders.own", "Own", {}),
}


def make(name: str, **options) -> Builder:
  """The builder of a name, with options of its own (`options`)."""
  cls, arguments = _find(name)
  return cls(**arguments, **options)


def options(name: str) -> dict[str, inspect.Parameter]:
  """The options that a user may give to a source: arguments with a default value."""
  cls, arguments = _find(name)
  parameters = inspect.signature(cls).parameters
  return {
    key: parameter
    for key, parameter in parameters.items()
    if key not in arguments and parameter.default is not parameter.empty
  }


def _find(name):
  """(class, arguments) of a name. UserError lists the known ones."""
  if name not in BUILDERS:
    raise UserError(f"{name!r} is no known data set; there are {', '.join(BUILDERS)}")
  module, cls, arguments = BUILDERS[name]
  return getattr(importlib.import_module(module), cls), arguments
