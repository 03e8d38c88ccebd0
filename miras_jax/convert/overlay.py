"""What lies over a base: adapters with an embedding of their own, tuned weights beside
adapters, and the head of a model that is said to have none.

PEFT saves a resized embedding with its adapters, LLaVA what trained beside them in
`non_lora_trainables.bin`; both replace the base's tensors of the same place.
"""

import numpy as np

from miras_jax.convert import hf
from miras_jax.errors import UserError
from miras_jax.logs import log

EMBED, HEAD = "llm/embed/embedding", "llm/lm_head/kernel"


def in_order(sources):
  """The sources, what lies over others last."""
  return sorted(sources, key=lambda source: source.overlay)


def replaced(sources):
  """{Place: Source} of the tensors that overlays bring, whoever else has them."""
  return {
    place: source
    for source in sources
    if source.overlay
    for key in source.infos
    for place in _places(source, key)
  }


def holders(sources, path):
  """[(Source, key)] of one of our leaves, in order."""
  return [
    (source, key)
    for source in sources
    for key in source.infos
    if any(place.path == path for place in _places(source, key))
  ]


def settle_head(sources):
  """Drops the head of a tied model where it repeats the embedding; another one stays,
  so that the model is no longer tied. UserError for a head of another shape."""
  embeds, heads = holders(sources, EMBED), holders(sources, HEAD)
  if not embeds or not heads or not hf.is_tied(embeds[0][0].settings):
    return
  (embedder, embed), (header, head) = embeds[-1], heads[-1]
  if _equal(embedder.read(embed), header.read(head)):
    for source, key in heads:
      source.drop(key)
    return
  log.warning(
    "%s: tie_word_embeddings is set, yet %s is not %s: the file's head is kept, untied",
    header.file_of(head), head, embed,
  )  # fmt: skip


def _places(source, key):
  """`Table.places` with the file in its error."""
  try:
    return source.table.places(key)
  except UserError as error:
    raise UserError(f"{source.file_of(key)}: {error}") from None


def _equal(a, b):
  """Whether two arrays hold the same numbers, to the bit where their dtypes agree."""
  if a.shape != b.shape:
    return False
  if a.dtype != b.dtype:
    return bool((a.astype(np.float32) == b.astype(np.float32)).all())
  pairs = zip(a, b, strict=True)
  return all(x.tobytes() == y.tobytes() for x, y in pairs)
