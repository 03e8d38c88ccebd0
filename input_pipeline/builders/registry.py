"""The builders by name: `miras data build NAME`. A new source is a module and a row."""

import importlib
import inspect

from input_pipeline.builders.builder import Builder
from miras_jax.errors import UserError

_REFER = "input_pipeline.builders.refer"

# name: (module, class, arguments)
BUILDERS: dict[str, tuple[str, str, dict]] = {
  "prist": ("input_pipeline.builders.prist", "Prist", {}),
  "refcoco": (_REFER, "Refer", {"dataset": "refcoco", "split_by": "unc"}),
  "refcoco_google": (_REFER, "Refer", {"dataset": "refcoco", "split_by": "google"}),
  "refcoco+": (_REFER, "Refer", {"dataset": "refcoco+", "split_by": "unc"}),
  "refcocog": (_REFER, "Refer", {"dataset": "refcocog", "split_by": "umd"}),
  "refcocog_google": (_REFER, "Refer", {"dataset": "refcocog", "split_by": "google"}),
  "refclef": (_REFER, "Refer", {"dataset": "refclef", "split_by": "unc"}),
  "refclef_berkeley": (_REFER, "Refer", {"dataset": "refclef", "split_by": "berkeley"}),
  "grefcoco": ("input_pipeline.builders.grefcoco", "GRefCoco", {}),
  "reasonseg": ("input_pipeline.builders.reasonseg", "ReasonSeg", {}),
  "muse": ("input_pipeline.builders.muse", "Muse", {}),
  "mmr": ("input_pipeline.builders.muse", "Mmr", {}),
  "mrseg": ("input_pipeline.builders.mrseg", "MrSeg", {}),
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
