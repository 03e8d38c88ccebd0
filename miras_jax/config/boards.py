"""The boards that a run may show its numbers on, by name."""

from miras_jax.errors import UserError

KINDS = ("wandb", "mlflow", "prometheus")
_NAMED = ("wandb", "mlflow")  # kinds that need the name of a project


def parse(text) -> list[tuple[str, str]]:
  """ "wandb:NAME,prometheus" -> [("wandb", "NAME"), ("prometheus", "")]. UserError."""
  found = []
  for part in filter(None, text.split(",")):
    kind, _, name = part.partition(":")
    if kind not in KINDS:
      raise UserError(f"boards={text}: no board {kind!r}; there are {', '.join(KINDS)}")
    if bool(name) != (kind in _NAMED):
      want = f"{kind}:NAME" if kind in _NAMED else kind
      raise UserError(f"boards={text}: want {want}")
    found.append((kind, name))
  return found
