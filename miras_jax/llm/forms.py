"""What a reply must look like: a pydantic model, its JSON schema, and reading by it."""

import json
from typing import Any

MAX_REPLY = 1 << 18  # characters that are searched for an object
MAX_STARTS = 50  # places at which an object may begin


def make(name: str, fields: dict[str, Any]):
  """A pydantic model: every field must be there, and no other.

  fields: {name: type}, in the order in which a model is to write them.
  """
  import pydantic

  config = pydantic.ConfigDict(extra="forbid", strict=True)
  wanted = {field: (kind, ...) for field, kind in fields.items()}
  return pydantic.create_model(name, __config__=config, **wanted)


def schema(model) -> dict:
  """The JSON schema of a pydantic model without titles, which versions word anew."""
  return _without_titles(model.model_json_schema())


def read(text: str, model):
  """The object of `model` in a reply. Raises ValueError with the reason.

  Around it may stand what models like to add: a code fence, thoughts, a greeting. The
  last object that fits is taken, since thoughts come first.
  """
  import pydantic

  reason = "there is no JSON object in it"
  text = text[-MAX_REPLY:]
  starts = [i for i, letter in enumerate(text) if letter == "{"]
  kept = starts[:MAX_STARTS] + starts[MAX_STARTS:][-MAX_STARTS:]
  for start in reversed(kept):
    try:
      found, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
      if start == starts[0] and reason.startswith("there"):
        reason = "the JSON object in it is broken"
      continue
    try:
      return model.model_validate_json(json.dumps(found))
    except pydantic.ValidationError as error:
      reason = _said(error)
  raise ValueError(reason)


def _said(error):
  """The first complaints of pydantic in one line."""
  complaints = error.errors(include_url=False, include_input=False)[:3]
  return "; ".join(
    f"{'.'.join(map(str, c['loc'])) or 'reply'}: {c['msg']}" for c in complaints
  )


def _without_titles(schema):
  if isinstance(schema, list):
    return [_without_titles(x) for x in schema]
  if not isinstance(schema, dict):
    return schema
  # A title is a text; a field of that name is an object.
  return {
    name: _without_titles(value)
    for name, value in schema.items()
    if not (name == "title" and isinstance(value, str))
  }
