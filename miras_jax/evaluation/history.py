"""How each target of a conversation relates to its earlier ones, by the true masks."""

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.slots import fill, relations
from miras_jax.evaluation import controls


def history_of(record) -> list[tuple[int, int]]:
  """(relation, earlier target) of each target: indices in RELATIONS and of `targets`;
  (UNRELATED, -1) for one that is about none. Raises ValueError for a broken mask."""
  places = controls.seg_slots(record)
  return relations_of([rle for _, rle in record.targets], [t for t, _ in places])


def relations_of(rles, turns) -> list[tuple[int, int]]:
  """`history_of` masks by the turns they were asked for in."""
  if len(set(turns)) < 2:
    return [(relations.UNRELATED, -1)] * len(rles)
  masks = [_small(mask_ops.decode_rle(rle)) for rle in rles]
  found = []
  for now, turn in zip(masks, turns, strict=True):
    kinds = [
      relations.relation(now, mask) if t < turn else -1
      for mask, t in zip(masks, turns, strict=True)
    ]
    later = np.cumsum(np.array(kinds[::-1]) >= 0)[::-1]
    earlier = relations.pointer(kinds, later.tolist())
    none = earlier == len(kinds)
    found.append((relations.UNRELATED, -1) if none else (kinds[earlier], earlier))
  return found


def _small(mask_HW):
  k = -(-max(mask_HW.shape) // fill.LABEL_SIDE)
  return mask_HW[::k, ::k] > 0
