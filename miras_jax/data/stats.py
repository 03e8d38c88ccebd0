"""`miras data stats`: what a folder holds, split by split, or what a run would draw."""

import importlib
import json
import os

import numpy as np
from tqdm import tqdm

from input_pipeline import mask_ops, prist
from input_pipeline.mixture import mix
from input_pipeline.open_source import open_source, resolve
from input_pipeline.records import SEG_TOKEN, RecordError
from input_pipeline.source import Source
from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.data import draws
from miras_jax.errors import UserError


def run(args) -> int:
  """Prints counts as a table or as JSON; `--out` draws the histograms."""
  if bool(args.config) == bool(args.dirs):
    raise UserError("miras data stats: want DIR, or --config=FILE, not both")
  if args.draws < 1:
    raise UserError(f"--draws={args.draws} must be at least 1")
  if args.out:
    importlib.import_module("matplotlib")  # an extra: missed before the work
  alone = len(args.dirs) == 1 and not args.out
  if alone and resolve(args.dirs[0])[0] == "prist":
    return _of_splits(args)
  config, source = _of_run(args) if args.config else _of_folders(args)
  found = draws.collect(source, config, args.draws)
  print(json.dumps(found, indent=1) if args.json else draws.text(found))
  if args.out:
    draws.draw(found, args.out)
    if not args.json:
      print(args.out)
  return 0


def _of_splits(args):
  folder = args.dirs[0]
  options = {"images_dir": args.images_dir, "masks_dir": args.masks_dir}
  named = args.split and [args.split.removesuffix(".json")]
  names = named or prist.find_splits(resolve(folder)[1])
  stats = {s: split_stats(open_source(folder, s, **options)) for s in names}
  print(json.dumps({"splits": stats}, indent=1) if args.json else _table(stats))
  return 0


def _of_run(args) -> tuple[RunConfig, Source]:
  from miras_jax.training import sources  # starts jax

  config = config_file.read(args.config, args.fields)
  if args.split:
    return config, sources.open_split(config, args.split)
  return config, sources.open_splits(config)[0]


def _of_folders(args) -> tuple[RunConfig, Source]:
  """The folders as a mixture in which each has the same weight."""
  names = [os.path.basename(os.path.normpath(folder)) for folder in args.dirs]
  if len(set(names)) < len(names):
    names = args.dirs
  options = {"images_dir": args.images_dir, "masks_dir": args.masks_dir}
  opened = [open_source(d, args.split or "train", **options) for d in args.dirs]
  if len(opened) == 1:
    return RunConfig(), opened[0]
  return RunConfig(), mix(opened, [1.0] * len(opened), names)


def split_stats(dataset):
  """Counts of one PristDataset: plain numbers, ready for JSON.

  Dialogue counts are over all records; target counts over the usable ones, since a
  mask that is missing has no area. Areas are fractions of the image.
  """
  areas, usable, ambiguous = [], 0, 0
  for i in _progress(dataset, f"reading {dataset.split}"):
    record = dataset.load(i)
    if isinstance(record, RecordError):
      continue
    usable += 1
    ambiguous += dataset.ambiguous(i)
    areas += [_area_fraction(rle) for _, rle in record.targets]
  turns = [entry.turns for entry in dataset.entries]
  texts = [text for dialogue in turns for _, text in dialogue]
  seg = [_count_seg(dialogue) for dialogue in turns]
  return {
    "conversations": len(dataset),
    "usable": usable,
    "defective": len(dataset) - usable,
    "images": len(set(filter(None, dataset.image_ids))),
    "turns": sum(role == "user" for dialogue in turns for role, _ in dialogue),
    "messages": len(texts),
    "words": sum(len(text.split()) for text in texts),
    "seg_per_conversation": {str(n): seg.count(n) for n in sorted(set(seg))},
    "targets": len(areas),
    "empty_targets": sum(area == 0 for area in areas),
    "ambiguous_focuses": ambiguous,
    "target_area": _quantiles([area for area in areas if area > 0]),
    "fingerprint": dataset.fingerprint(),
  }


def _progress(dataset, text):
  return tqdm(range(len(dataset)), desc=text, unit="record", leave=False)


def _count_seg(dialogue):
  return sum(text.count(SEG_TOKEN) for role, text in dialogue if role == "assistant")


def _area_fraction(rle):
  height, width = rle["size"]
  return mask_ops.rle_area(rle) / (height * width)


def _quantiles(areas):
  """Five numbers of the distribution, or None for no area at all."""
  if not areas:
    return None
  values = np.quantile(areas, [0, 0.25, 0.5, 0.75, 1])
  names = ("min", "p25", "median", "p75", "max")
  return {name: round(float(v), 5) for name, v in zip(names, values, strict=True)}


def _table(stats):
  """Rows are counts, columns are splits."""
  keys = next(iter(stats.values())).keys()
  rows = [["", *stats]]
  rows += [[key, *(_cell(s[key]) for s in stats.values())] for key in keys]
  widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
  return "\n".join(
    "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  )


def _cell(value):
  if value is None:
    return "-"
  if isinstance(value, dict):
    return ", ".join(f"{k}: {v:.3g}" for k, v in value.items())
  return value[:12] if isinstance(value, str) else f"{value:,}"
