"""The data set of a run in PRIST's layout, with its trees, its rejections, its record.

    OUT/<split>.json        lists of {img_id, dialogue, focus}, as PRIST's
    OUT/images/, masks/     photographs; one labelme file each
    OUT/trees/<split>.jsonl the trees and conversations of a photograph a line (PRIST-X)
    OUT/rejected.jsonl      what was rejected, and why
    OUT/meta.json           settings, counts, statistics; written last
    OUT/DATASHEET.md        the same for people
    OUT/audit.csv           the sample that people look at
    OUT/worklist.html, labels.txt   without masks: what annotators draw

The same replies give the same bytes. An annotator's file is never written over.
"""

import base64
import io
import json
import os
import pathlib

import numpy as np
from PIL import Image

from input_pipeline import mask_ops, prist_x
from input_pipeline.annotations import layout
from input_pipeline.builders import split_by_photograph
from input_pipeline.labelme_shapes import normal
from input_pipeline.prist_folders import annotation_name
from miras_jax.data.construct import datasheet, statistics, worklist
from miras_jax.errors import UserError

SETTINGS = layout.CONSTRUCTED
META = "meta.json"
_OURS = (META, "train.json", "val.json", "test.json")


def check_folder(out: pathlib.Path, settings: dict) -> None:
  """Notes the settings in a new folder; UserError where it holds other data."""
  noted = out / SETTINGS
  if noted.is_file():
    before = _read(noted)
    changed = [k for k in settings if before.get(k) != settings[k]]
    if changed:
      key = changed[0]
      raise UserError(
        f"--out={out}: was begun with {key}={before.get(key)!r}, not {settings[key]!r};"
        " go on with that, or name a new folder"
      )
    return
  if any((out / name).exists() for name in _OURS):
    raise UserError(f"--out={out}: holds another data set; name a new folder")
  write(noted, _json(settings))


def write_all(out: pathlib.Path, run, shares, settings, masked, find) -> dict:
  """Writes everything; returns what meta.json holds.

  shares: of the splits; find(name): bytes of a photograph.
  """
  chosen = split_by_photograph.assign((p.look for p in run.photos), shares)
  lists = {split: [] for split in shares}
  trees = {split: [] for split in shares}
  for photo in run.photos:
    if not photo.drafts:
      continue
    split = chosen[photo.name]
    write(out / "images" / photo.name, find(photo.name))
    _write_masks(out, photo, masked)
    lists[split] += [_record(draft) for draft in photo.drafts]
    trees[split].append(_tree_line(photo))
  for split, records in lists.items():
    files = out / f"{split}.json", out / prist_x.FOLDER / f"{split}.jsonl"
    if records:
      write(files[0], _json(records))
      write(files[1], "".join(json.dumps(line) + "\n" for line in trees[split]))
    else:
      for file in files:  # of a run that had some
        file.unlink(missing_ok=True)
  write(out / "rejected.jsonl", "".join(map(_rejected, run.rejections)))
  meta = statistics.summary(run, lists, settings, masked)
  write(out / "audit.csv", datasheet.audit_sample(lists))
  write(out / "DATASHEET.md", datasheet.text(meta))
  if not masked:
    worklist.write_page(out, lists, write)
  write(out / META, _json(meta))
  return meta


def write(path: pathlib.Path, content: str | bytes) -> None:
  """The file is there with all of its content or not at all."""
  data = content.encode("utf-8") if isinstance(content, str) else content
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(path.name + ".tmp")
  aside.write_bytes(data)
  os.replace(aside, path)


def _json(value):
  return json.dumps(value, indent=1) + "\n"


def _read(path):
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise UserError(f"{path}: damaged; delete it if the folder may be written over")
  return found


def _record(draft):
  return {
    "img_id": draft.image,
    "dialogue": _turns(draft.turns),
    "focus": draft.focus,
  }


def _turns(turns):
  names = {"user": "human", "assistant": "gpt"}
  return [{"from": names[role], "value": text} for role, text in turns]


def _write_masks(out, photo, masked):
  name = annotation_name(photo.name)
  path = out / "masks" / name
  if not masked:
    if not path.exists():
      write(path, _json(worklist.file(photo)))
    return
  labelled = [(region.name, k) for k, region in enumerate(photo.regions)]
  for draft in photo.drafts:
    number = int(draft.annotation[1:])
    if normal(draft.focus) != normal(photo.regions[number].name):
      labelled.append((draft.focus, number))
  shapes = [
    _shape(label, k, photo.regions[k].rle) for label, k in dict.fromkeys(labelled)
  ]
  write(path, _json(worklist.document(photo, shapes)))


def _shape(label, group, rle):
  """A labelme shape of type mask: a PNG of one bit on its box, exact to the pixel."""
  mask_HW = mask_ops.decode_rle(rle).astype(bool)
  rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
  top, left, bottom, right = map(int, (rows[0], columns[0], rows[-1], columns[-1]))
  buffer = io.BytesIO()
  crop_hw = mask_HW[top : bottom + 1, left : right + 1]
  Image.fromarray(crop_hw).save(buffer, "PNG")
  return {
    "label": label,
    "points": [[left, top], [right, bottom]],
    "group_id": group,
    "shape_type": "mask",
    "flags": {},
    "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
  }


def _tree_line(photo):
  """A photograph in PRIST-X's form."""
  things = [
    {
      "id": f"a{k}",
      "name": region.name,
      "part_of": "" if region.part_of is None else f"a{region.part_of}",
      "mask": region.rle,
    }
    for k, region in enumerate(photo.regions)
  ]
  places = {path: k for k, path in enumerate(photo.tree.paths)}
  talks = [
    {
      "turns": _turns(draft.turns),
      "path": places[draft.path],
      "masks": [_mask(draft)],
    }
    for draft in photo.drafts
  ]
  return prist_x.line(
    photo.name, photo.height, photo.width, things, photo.tree.data(), talks
  )


def _mask(draft):
  things = [draft.annotation] if draft.annotation else None
  return prist_x.mask(things, name=draft.focus)


def _rejected(rejection):
  draft = rejection.draft
  line = {
    "img_id": rejection.image,
    "reason": rejection.reason,
    "detail": rejection.detail,
    "reasons": list(rejection.reasons),
    "nodes": list(rejection.path.nodes) if rejection.path else [],
    "dialogue": _turns(draft.turns) if draft else [],
    "focus": draft.focus if draft else "",
  }
  return json.dumps(line) + "\n"
