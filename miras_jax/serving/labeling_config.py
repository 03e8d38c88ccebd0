"""Label Studio's labeling config, XML: which controls there are and what they label."""

import dataclasses
import xml.etree.ElementTree as ElementTree

from miras_jax.errors import UserError

MAX_CONFIG = 256 * 1024  # characters


@dataclasses.dataclass(frozen=True)
class Control:
  """A control that masks are given to. kind: brushlabels or polygonlabels."""

  kind: str
  from_name: str
  to_name: str
  labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config:
  """image: the key of a task's data that holds its picture."""

  control: Control
  image: str


def parse(text: str) -> Config:
  """Raises UserError where the config has no image, or nothing that takes masks."""
  if len(text) > MAX_CONFIG:
    raise UserError(f"label_config: more than {MAX_CONFIG:,} characters")
  if "<!" in text.replace("<!--", ""):  # entities may grow without bounds
    raise UserError("label_config: declarations (<!...>) are not read")
  try:
    root = ElementTree.fromstring(text)
  except (ElementTree.ParseError, ValueError, RecursionError) as error:
    raise UserError(f"label_config: not valid XML: {error}") from None
  images = {e.get("name"): e.get("value", "") for e in root.iter("Image")}
  for kind in ("BrushLabels", "PolygonLabels"):
    for element in root.iter(kind):
      to_name = element.get("toName", "")
      if to_name in images:
        control = _control(kind, element, to_name)
        return Config(control, images[to_name].removeprefix("$"))
  raise UserError("label_config: wants BrushLabels or PolygonLabels on an Image")


def _control(kind, element, to_name):
  labels = tuple(e.get("value", "") for e in element.iter("Label"))
  return Control(kind.lower(), element.get("name", ""), to_name, labels)
