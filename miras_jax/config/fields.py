"""One field of a run: its default, help, bounds, and whether a resumed run may differ.

The frozen dataclasses of settings.py, run.py and model.py are made of these; the
defaults of a config file, `--help`, every check and the comparison at resume read them.
"""

import dataclasses
import math

from miras_jax.errors import UserError
from miras_jax.options import expanded


def setting(
  default,
  text: str,
  *,
  least=None,
  above=None,
  below=None,
  choices=(),
  may_change: bool = False,
  option: str = "",
  is_path: bool = False,
):
  """A dataclass field with what is known of it.

  text: a line of help. least, above, below: bounds of a number. choices: all there are.
  may_change: a run may go on with another value. option: `a.b` of `--config.a.b` where
  that is not the field's own place. is_path: `~` is expanded, gs:// and s3:// stay.
  """
  about = {
    "help": text,
    "least": least,
    "above": above,
    "below": below,
    "choices": tuple(choices),
    "may_change": may_change,
    "option": option,
    "is_path": is_path,
  }
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: dict(default), metadata=about)
  return dataclasses.field(default=default, metadata=about)


def check(group, prefix: str = "") -> None:
  """UserError naming the first field of a dataclass whose value is out of its bounds.

  prefix: what stands before the field's name on the command line, e.g. "optim.".
  """
  for field in dataclasses.fields(group):
    value = getattr(group, field.name)
    path = field.metadata.get("option") or f"{prefix}{field.name}"
    _check_kind(path, field.type, value)
    _check_choice(path, field.metadata, value)
    _check_bounds(path, field.metadata, value)


def with_expanded_paths(kind, values: dict) -> dict:
  """Values of a dataclass's fields, every path as `options.expanded` makes it."""
  paths = {f.name for f in dataclasses.fields(kind) if f.metadata.get("is_path")}
  return {k: expanded(v) if k in paths else v for k, v in values.items()}


def _check_kind(path, kind, value):
  if kind not in (int, float, str, bool, dict):
    return
  kinds = (int, float) if kind is float else (kind,)
  if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
    raise UserError(f"{path}={value!r}: want a value of type {kind.__name__}")


def _check_choice(path, about, value):
  choices = about.get("choices")
  if choices and value not in choices:
    raise UserError(f"unknown {path}={value!r}; there are {', '.join(choices)}")


def _check_bounds(path, about, value):
  if not isinstance(value, (int, float)) or isinstance(value, bool):
    return
  least, above, below = (about.get(k) for k in ("least", "above", "below"))
  low = (least is None or value >= least) and (above is None or value > above)
  if math.isfinite(value) and low and (below is None or value < below):
    return
  wanted = [] if math.isfinite(value) else ["finite"]
  wanted += [] if least is None else [f"at least {least}"]
  wanted += [] if above is None else [f"more than {above}"]
  wanted += [] if below is None else [f"less than {below}"]
  raise UserError(f"{path}={value} must be {' and '.join(wanted)}")
