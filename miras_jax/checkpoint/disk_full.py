"""A disk that is full: told from other errors, and said in one line."""

import errno

from miras_jax.errors import UserError

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = ("No space left", "Disk quota", "File too large")


class DiskFull(UserError):
  """A step that was not written for lack of space; the ones before it are whole."""


def is_full(error):
  """Whether an error, or what caused it, says that nothing more fits."""
  while error:
    if getattr(error, "errno", None) in _NUMBERS:
      return True
    if any(s in str(error) for s in _TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False


def message(folder, step, num_bytes, free):
  need = f", {num_bytes / 1e6:,.1f} MB needed" if num_bytes else ""
  return (
    f"disk full: checkpoint {step} was not written to {folder} ({free / 1e6:,.1f} MB"
    f" free{need}); free some space or lower --config.keep, then run the same command"
    " again"
  )
