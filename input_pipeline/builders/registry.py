"""The builders by name: `miras data build NAME`. A new source is a module and a row."""

import importlib

from input_pipeline.builders.builder import Builder
from miras_jax.errors import UserError

# name: (module, class, arguments)
BUILDERS: dict[str, tuple[str, str, dict]] = {}


def make(name: str) -> Builder:
  """The builder of a name. UserError lists the known ones."""
  if name not in BUILDERS:
    raise UserError(f"{name!r} is no known data set; there are {', '.join(BUILDERS)}")
  module, cls, arguments = BUILDERS[name]
  return getattr(importlib.import_module(module), cls)(**arguments)
