"""Writes a data set: plan, shards in parallel, and what TFDS wants to know of it.

    OUT/NAME/VERSION/
      NAME-SPLIT.array_record-00000-of-00042   examples (`schema`)
      dataset_info.json, features.json         for `tfds.builder_from_directory`
      card.md                                  data card, for people to complete
      index-SPLIT.*                            image ids, dialogues: for ours
      rejected-SPLIT.jsonl                     [file, record, reason] of each
      notes-SPLIT.jsonl                        the same of what is odd and was used
      miras.json                               counts, digests, options of the build
      .build/                                  while it is not finished

A build that was interrupted goes on with the shards that are missing. Shards and their
order depend on the data alone, not on the number of workers.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import pathlib
import shutil
import sys
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.builders import finish, shard
from input_pipeline.builders.builder import Builder
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError
from miras_jax.errors import UserError

# Shards are made as small as to keep tens of workers busy and as large as files may be.
WANTED_SHARDS, LEAST_UNITS, MOST_UNITS = 64, 16, 1024


class Work(NamedTuple):
  """A shard to be written: of which split, its number, its lines of the plan."""

  folder: str
  number: int
  first: int
  count: int


def build(builder: Builder, src, out, *, only=(), num_workers=0) -> pathlib.Path:
  """Builds a data set into OUT/NAME/VERSION, which is returned.

  Args:
    builder: see `builder.Builder`.
    src: root of the source's files, also `gs://...`.
    out: a local folder.
    only: names of splits; none: all that there are.
    num_workers: processes that write shards; 0: this one does.

  Raises:
    UserError: nothing to build; the folder holds another build; a worker died.
  """
  card = builder.card
  folder = pathlib.Path(out) / card.name / card.version
  source = SourceFolder(src, homepage=card.homepage, layout=card.layout)
  splits = _chosen(builder.splits(source), only)
  if said := builder.found(source):
    tqdm.write(f"found {said}", file=sys.stderr)
  settings = {
    "src": str(src),
    "splits": list(splits),
    "options": builder.options(),
    "files": builder.files_digest(source),
  }
  if _begin(folder, settings):
    return folder
  work = [
    item
    for split in splits
    for item in _plan(builder, source, folder / ".build" / split, split)
  ]
  if not work:
    raise UserError(f"--src={src}: nothing to build; `--only` or the layout is wrong")
  _write_shards(builder, source, work, num_workers)
  finish.finish(card, folder, settings)
  return folder


def is_finished(card, out) -> bool:
  """Whether OUT holds a whole build of a source."""
  return (pathlib.Path(out) / card.name / card.version / finish.NAME).is_file()


def _chosen(there, only):
  if unknown := [name for name in only if name not in there]:
    raise UserError(f"--only={unknown[0]}: there are the splits {', '.join(there)}")
  return tuple(name for name in there if not only or name in only)


def _begin(folder, settings):
  """Makes the folder, or finds a build to go on with; True when it is finished."""
  plan = folder / ".build" / "settings.json"
  made = folder / finish.NAME
  if made.is_file():
    earlier = json.loads(made.read_text())["settings"]
    if earlier != json.loads(json.dumps(settings)):
      raise UserError(f"{folder} {_differs(earlier, settings, 'was built')}")
    shutil.rmtree(folder / ".build", ignore_errors=True)
    return True
  if plan.is_file():
    earlier = json.loads(plan.read_text())
    if earlier != json.loads(json.dumps(settings)):
      raise UserError(f"{folder} {_differs(earlier, settings, 'is half-built')}")
    return False
  if folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()):
    raise UserError(f"{folder}: holds files that no build made; choose another --out")
  _write(plan, settings)
  return False


def _differs(earlier, settings, state):
  named = [
    f"{key}={earlier.get(key)!r} (now {settings[key]!r})"
    for key in settings
    if json.loads(json.dumps(settings[key])) != earlier.get(key) and key != "files"
  ] or ["other files below --src, or earlier versions of them"]
  return (
    f"{state} with {', '.join(named)}; choose another --out, or remove the folder to"
    " build it anew"
  )


def _plan(builder, source, folder, split):
  """The shards of a split. Lists its units once; a later run reads the list."""
  done, units = folder / "plan.json", folder / "units.jsonl"
  if not done.is_file():
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"units": 0, "rejected": 0}
    with contextlib.ExitStack() as stack:
      listed = stack.enter_context(open(units, "w", encoding="utf-8"))
      rejected = stack.enter_context(open(folder / "rejected.jsonl", "w"))
      for unit in tqdm(builder.units(source, split), f"listing {split}", unit=""):
        if isinstance(unit, RecordError):
          counts["rejected"] += 1
          rejected.write(json.dumps([unit.file, unit.record, unit.reason]) + "\n")
        else:
          counts["units"] += 1
          listed.write(json.dumps(unit) + "\n")
    _write(done, counts)
  total = json.loads(done.read_text())["units"]
  size = min(max(-(-total // WANTED_SHARDS), LEAST_UNITS), MOST_UNITS)
  return [
    Work(str(folder), number, first, min(size, total - first))
    for number, first in enumerate(range(0, total, size))
  ]


def _write_shards(builder, source, work, num_workers):
  bar = tqdm(total=sum(item.count for item in work), desc="building", unit="image")
  with bar:
    for count in _results(builder, source, work, num_workers):
      bar.update(count)


def _results(builder, source, work, num_workers):
  """How many units each shard had, as they are finished."""
  if not num_workers:
    for item in work:
      yield _work(builder, source, item)
    return
  context = multiprocessing.get_context("spawn")
  pool = concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context)
  try:
    futures = [pool.submit(_work, builder, source, item) for item in work]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  except concurrent.futures.process.BrokenProcessPool:
    raise UserError(
      "a worker ended without a word, perhaps for want of memory; run the command again"
      " to go on, with a smaller --num_workers"
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


def _work(builder, source, item):
  lines = shard.lines_of(
    pathlib.Path(item.folder) / "units.jsonl", item.first, item.count
  )
  shard.write(builder, source, item.folder, item.number, lines)
  return item.count


def _write(path, value):
  """A whole file or none."""
  path.parent.mkdir(parents=True, exist_ok=True)
  half = path.with_suffix(".tmp")
  half.write_text(json.dumps(value))
  half.rename(path)
