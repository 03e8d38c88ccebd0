"""The builders by name: `miras data build NAME`. A new source is a module and a row."""

import importlib
import inspect

from input_pipeline.builders.builder import Builder
from miras_jax.errors import UserError

_HERE = "input_pipeline.builders"
_REFER = f"{_HERE}.refer"

# name: (module, class, arguments)
BUILDERS: dict[str, tuple[str, str, dict]] = {
  "prist": (f"{_HERE}.prist", "Prist", {}),
  "prist_x": (f"{_HERE}.prist_x", "PristX", {}),
  "refcoco": (_REFER, "Refer", {"dataset": "refcoco", "split_by": "unc"}),
  "refcoco_google": (_REFER, "Refer", {"dataset": "refcoco", "split_by": "google"}),
  "refcoco+": (_REFER, "Refer", {"dataset": "refcoco+", "split_by": "unc"}),
  "refcocog": (_REFER, "Refer", {"dataset": "refcocog", "split_by": "umd"}),
  "refcocog_google": (_REFER, "Refer", {"dataset": "refcocog", "split_by": "google"}),
  "refclef": (_REFER, "Refer", {"dataset": "refclef", "split_by": "unc"}),
  "refclef_berkeley": (_REFER, "Refer", {"dataset": "refclef", "split_by": "berkeley"}),
  "grefcoco": (f"{_HERE}.grefcoco", "GRefCoco", {}),
  "reasonseg": (f"{_HERE}.reasonseg", "ReasonSeg", {}),
  "muse": (f"{_HERE}.muse", "Muse", {}),
  "mmr": (f"{_HERE}.muse", "Mmr", {}),
  "mrseg": (f"{_HERE}.mrseg", "MrSeg", {}),
  "ade20k": (f"{_HERE}.ade20k", "Ade20k", {}),
  "ade20k_full": (f"{_HERE}.ade20k_full", "Ade20kFull", {}),
  "cocostuff": (f"{_HERE}.cocostuff", "CocoStuff", {}),
  "mapillary": (f"{_HERE}.mapillary", "Mapillary", {}),
  "pascal_part": (f"{_HERE}.parts", "PascalPart", {}),
  "paco_lvis": (f"{_HERE}.parts", "PacoLvis", {}),
  "coco_instances": (f"{_HERE}.coco", "CocoInstances", {}),
  "coco_captions": (f"{_HERE}.coco", "CocoCaptions", {}),
  "vg": (f"{_HERE}.visual_genome", "VisualGenome", {}),
  "llava_instruct_150k": (f"{_HERE}.llava", "Llava", {"which": "instruct"}),
  "llava_mix665k": (f"{_HERE}.llava", "Llava", {"which": "mix"}),
  "sharegpt4v": (f"{_HERE}.sharegpt4v", "ShareGpt4v", {"which": "captions"}),
  "sharegpt4v_pt": (f"{_HERE}.sharegpt4v", "ShareGpt4v", {"which": "captioner"}),
  "sharegpt4v_mix665k": (f"{_HERE}.sharegpt4v", "ShareGpt4v", {"which": "mix"}),
  "allava": (f"{_HERE}.allava", "Allava", {"which": "all"}),
  "allava_laion": (f"{_HERE}.allava", "Allava", {"which": "laion"}),
  "allava_vflan": (f"{_HERE}.allava", "Allava", {"which": "vflan"}),
  "allava_text": (f"{_HERE}.allava", "Allava", {"which": "text"}),
  "own": (f"{_HERE}.own", "Own", {}),
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
