"""`miras data check`: every defect of a data set as a line, `FILE:RECORD: reason`."""

from tqdm import tqdm

from input_pipeline.builders.shard import defect
from input_pipeline.open_source import find_splits, open_source, resolve
from input_pipeline.records import Problem, RecordError
from miras_jax.errors import UserError


def run(args) -> int:
  """Prints problems, warnings and a summary line; 1 if there was a problem."""
  scheme, _ = resolve(args.dir)
  if scheme not in READERS:
    raise UserError(
      f"{args.dir}: miras data check reads folders in PRIST's layout and built data"
      " sets only"
    )
  examine = READERS[scheme]
  splits = [args.split.removesuffix(".json")] if args.split else find_splits(args.dir)
  problems, warnings, image_ids, records = [], [], set(), 0
  for split in splits:
    try:
      source = open_source(
        args.dir, split, images_dir=args.images_dir, masks_dir=args.masks_dir
      )
    except RecordError as error:
      problems.append(str(error))
      continue
    for found, notes in examine(source):
      problems += map(str, found)
      warnings += map(str, notes)
    records += len(source)
    image_ids.update(filter(None, source.image_ids))
  for line in problems:
    print(line)
  for line in warnings:
    print(f"warning: {line}")
  print(
    f"{records} records, {len(image_ids)} images, {len(problems)} problems, "
    f"{len(warnings)} warnings"
  )
  return 1 if problems else 0


def examine_prist(dataset):
  """(problems, notes) of the list, then of each record, its files looked at."""
  yield [], dataset.notes()
  for i in _progress(dataset):
    yield dataset.examine(i)


def examine_built(source):
  """(problems, notes) of each record; what the builder could not use is a note."""
  yield [], [Problem(*entry) for entry in (*source.rejected(), *source.notes())]
  for _ in source.dialogues():
    pass  # a damaged list is an error
  sizes = {}
  for i in _progress(source):
    record = source.load(i)
    if isinstance(record, RecordError):
      yield [record], []
    elif reason := defect(record, sizes):
      yield [Problem(source.file, i, reason)], []


def _progress(source):
  return tqdm(range(len(source)), f"checking {source.file}", unit="record", leave=False)


# scheme of a data set: what is wrong with each of its records
READERS = {
  "prist": examine_prist,
  "tfds": examine_built,
}
