"""Scores of PRIST-X by what a mask is: an edit of an earlier one, of how many things.

edit  cIoU, mean IoU, share of IoU >= 0.5 of new, add, remove, part, same, other
of    the same of one thing, several, a part, none (where the mask is to be empty)
"""

from input_pipeline import prist_x
from miras_jax.evaluation import metrics

EDIT_ORDER = (prist_x.NEW, *prist_x.EDITS)


def columns(records) -> dict[str, list]:
  """{"edit", "of": its value for each target of the records, in order}; "" for targets
  of other data."""
  edits, of = [], []
  for record in records:
    kinds = prist_x.kinds_of(record.id)
    if len(kinds) != len(record.targets):
      kinds = [("", "")] * len(record.targets)
    edits += [edit for edit, _ in kinds]
    of += [asked for _, asked in kinds]
  return {"edit": edits, "of": of}


def measures(table, records, **sampling) -> dict:
  """The object "kinds" of metrics.json; {} where no record is of PRIST-X.

  table: of `metrics.Targets`, a row for each target of the records, in order.
  """
  values = columns(records)
  if not any(values["edit"]):
    return {}
  order = {"edit": EDIT_ORDER, "of": tuple(prist_x.OF)}
  return {
    name: metrics.by_value(table, values[name], order[name], **sampling)
    for name in order
  }
