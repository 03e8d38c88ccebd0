"""The tokenizer of converted weights, and how many rows their embedding needs."""

import pathlib

from input_pipeline.tokenizer import load_tokenizer
from miras_jax.convert import overlay
from miras_jax.convert.tree import Vocabulary
from miras_jax.errors import UserError

FILES = ("tokenizer.model", "tokenizer.json")
# Ids that a tokenizer may have beyond the embedding: a "<pad>" added after training.
MAX_ADDED = 64


def find(given, sources, *, required):
  """Path of the tokenizer: `given`, else beside the weights, else None or UserError.

  What brings an embedding of its own over a base has the tokenizer of that.
  """
  if given:
    if not pathlib.Path(given).exists():
      raise UserError(f"--tokenizer={given}: no such file or folder")
    return pathlib.Path(given)
  own = [source for source, _ in overlay.holders(sources, overlay.EMBED)]
  for source in (*reversed(own), *sources):
    if any((source.folder / name).is_file() for name in FILES):
      return source.folder
  if not required:
    return None
  raise UserError(
    f"no {' or '.join(FILES)} beside {', '.join(str(s.path) for s in sources)}; name a"
    " tokenizer with --tokenizer=PATH"
  )


def fit(path, rows, *, trained):
  """Vocabulary for an embedding of `rows`, or None when it stays as it is.

  Control tokens that the tokenizer lacks are appended; their rows are new. A model that
  was `trained` to say [SEG] must have it as one id. Raises UserError.
  """
  tokenizer = load_tokenizer(path)
  size = tokenizer.codec.size
  added = [token for token, i in tokenizer.control.items() if i >= size]
  if trained and "[SEG]" in added:
    ids = tokenizer.encode("[SEG]")
    raise UserError(
      f"{path}: the tokenizer splits '[SEG]' into the {len(ids)} ids {ids}, want one"
      " id: these weights were trained with it; take their own tokenizer"
    )
  if size > rows + (0 if trained else MAX_ADDED):
    raise UserError(
      f"{path}: the tokenizer has {size} ids, the embedding {rows} rows; take the"
      " tokenizer of these weights"
    )
  if not added and tokenizer.vocab_size <= rows:
    return None
  return Vocabulary(max(rows, tokenizer.vocab_size), min(rows, size))
