"""Lists made of a data set in PRIST's layout: single requests with its own pictures."""

import json
import pathlib

from input_pipeline import safe_files
from input_pipeline.prist_dialogue import Entry, parse_entry
from input_pipeline.records import SEG_TOKEN
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError

REQUEST = "Segment the {}."


def read_list(data, split) -> list[Entry]:
  """The sound records of a split. UserError where there are none."""
  path = pathlib.Path(data) / f"{split}.json"
  try:
    raw = safe_files.read_bytes(path, safe_files.MAX_LIST_BYTES)
    parsed = safe_files.parse_json(raw)[0]
  except FileNotFoundError:
    raise UserError(
      f"{path}: no such file, want a data set in PRIST's layout"
    ) from None
  except (ValueError, OSError) as error:
    raise UserError(f"{path}: {error}: want a data set in PRIST's layout") from None
  entries = [parse_entry(raw) for raw in parsed] if isinstance(parsed, list) else []
  sound = [entry for entry in entries if not entry.problems]
  if not sound:
    raise UserError(f"{path}: no usable record, want a data set in PRIST's layout")
  return sound


def named(entries) -> list[dict]:
  """A request by name for each target that is there: what stage 1 trains on."""
  targets = dict.fromkeys((e.img_id, focus) for e in entries for focus in e.focuses)
  return [
    _record(image, REQUEST.format(focus), SEG_TOKEN, [focus])
    for image, focus in targets
    if focus is not None
  ]


def alone(entries) -> list[dict]:
  """Each request that is answered by a mask, without the turns before it."""
  out = []
  for entry in entries:
    focuses = iter(entry.focuses)
    for (_, asked), (_, answer) in zip(
      entry.turns[::2], entry.turns[1::2], strict=True
    ):
      if due := [next(focuses) for _ in range(answer.count(SEG_TOKEN))]:
        out.append(_record(entry.img_id, asked, answer, due))
  return out


def _record(image, asked, answer, focuses):
  dialogue = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
  return {"img_id": image, "dialogue": dialogue, "focus": focuses}


def write(folder, lists) -> pathlib.Path:
  """A data set of lists {split: records}; pictures and masks stay where they are."""
  folder = pathlib.Path(folder)
  for split, records in lists.items():
    workdir.write_atomically(folder / f"{split}.json", json.dumps(records) + "\n")
  return folder
