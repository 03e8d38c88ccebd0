"""Options that every command with an endpoint has: what they may be."""

import json

from miras_jax.errors import UserError

MOST = {
  "timeout": 86_400,  # seconds
  "backoff": 3_600,  # seconds
  "concurrency": 1_024,  # threads
  "attempts": 1_000,
  "repairs": 100,
}


def check_most(args) -> None:
  """UserError for an option past MOST: clocks and threads have an end."""
  for name, most in MOST.items():
    if (value := getattr(args, name)) > most:
      raise UserError(f"--{name}={value}: want at most {most:,}")


def extra_fields(text: str) -> dict:
  """The fields of --extra. UserError for what no request can hold."""
  try:
    found = json.loads(text, parse_constant=_refuse)
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise UserError(f"--extra={text[:200]}: want a JSON object, e.g. '{{\"seed\": 1}}'")
  if "model" in found or "messages" in found:
    raise UserError("--extra: model and messages have a place of their own")
  return found


def _refuse(name):
  raise ValueError(f"{name} is no JSON")
