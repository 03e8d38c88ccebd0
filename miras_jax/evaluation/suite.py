"""Published benchmarks, each in its own convention, with fixed questions.

`miras eval --suite=res` runs those of suites/res.json on what `miras data build` wrote
below --data. Each split is an evaluation of its own in OUT/FOLDER_SPLIT, which is cut
off and goes on as any other; one whose result is there is not run again.
"""

import dataclasses
import json
import pathlib
import sys

from input_pipeline import regular_file
from input_pipeline.builders import reasonseg, wording
from input_pipeline.open_source import open_source
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.evaluation import parts as parts_lib
from miras_jax.evaluation import provenance, shares, suite_table
from miras_jax.evaluation.evaluate import Options, Work
from miras_jax.evaluation.records import read_records
from miras_jax.inference import devices
from miras_jax.parallel import distributed
from miras_jax.storage import reach

FOLDER = pathlib.Path(__file__).parent / "suites"
RESULT = "result.json"
HELD = ("settings", "counts", "parts")
AS_IT_STANDS = "as it stands"


def names() -> list[str]:
  """The suites that there are."""
  return sorted(path.stem for path in FOLDER.glob("*.json"))


def run(args, settings_of) -> int:
  """Runs the suite of `args`, writes suite.json and suite.md; returns the exit status.

  settings_of(args, split, source, batch_size): what the results of a split depend on.
  """
  suite = _read(args)
  loaded = distributed.together(devices.load, args)
  runner = Runner(args, suite, loaded, settings_of)
  rows, missing = [], []
  for benchmark in suite["benchmarks"]:
    for split in benchmark["splits"]:
      where = f"{benchmark['name']} {split}"
      try:
        source = distributed.together(runner.open, benchmark, split)
      except UserError as error:
        missing.append({"benchmark": where, "why": str(error)})
        _say(f"{where}: missing: {error}")
        continue
      result = runner.result(benchmark, split, source)
      rows.append({"benchmark": benchmark["name"], "split": split} | result)
  if distributed.is_first():
    found = {"suite": args.suite, "checkpoint": str(args.checkpoint)}
    found |= {"step": loaded.step, "history": args.history, "limit": args.limit}
    found |= {"weights": args.weights, "provenance": provenance.collect(args.seed)}
    found |= {"templates": suite["templates"], "results": rows, "missing": missing}
    _write(pathlib.Path(args.out), suite, found)
  distributed.barrier("eval: the suite is written")
  return int(bool(missing) and not args.allow_missing)


def _read(args):
  suite = json.loads((FOLDER / f"{args.suite}.json").read_text(encoding="utf-8"))
  if args.templates:
    suite["templates"] |= _templates(args.templates, suite["templates"])
  return suite


def _templates(path, known):
  """The templates of a user's file, {"phrase": "... {phrase} ...", ...}."""
  try:
    found = json.loads(regular_file.read_bytes(path, regular_file.SMALL_JSON))
  except (OSError, ValueError, RecursionError) as error:
    why = getattr(error, "strerror", None) or error
    raise UserError(f"--templates={path}: cannot be read as JSON: {why}") from None
  if not isinstance(found, dict) or not found.keys() <= known.keys():
    raise UserError(f"--templates={path}: want an object of {', '.join(known)}")
  for name, text in found.items():
    if not isinstance(text, str) or text.count(f"{{{name}}}") != 1:
      raise UserError(f"--templates={path}: {name} must hold {{{name}}} once")
    wording.fill(text, {name: ""})
  return found


class Runner:
  """Runs splits of benchmarks, with one model and one set of programs."""

  def __init__(self, args, suite, loaded, settings_of):
    self._args, self._templates, self._loaded = args, suite["templates"], loaded
    self._settings_of = settings_of
    self._generator = loaded.generator(args.max_new_tokens)
    self._options = Options(
      history=args.history,
      state=args.state,
      batch_size=devices.fill(args.batch_size, loaded.mesh),
      max_new_tokens=args.max_new_tokens,
      masks_only=True,
      seed=args.seed,
    )

  def open(self, benchmark, split):
    """The source of a split. UserError where there is none, or none with records."""
    place = reach.path(self._args.data) / benchmark["folder"]
    source = open_source(f"tfds:{place}", split)
    if not len(source):
      raise UserError(f"{place}: split {split} holds no conversation")
    return source

  def result(self, benchmark, split, source) -> dict:
    """{"settings", "counts", "parts": {part: {metric: ...}}}, made or found."""
    out = pathlib.Path(self._args.out) / f"{benchmark['folder']}_{split}"
    size = self._options.batch_size
    settings = self._settings_of(self._args, out.name, source, size)
    settings |= {"suite": self._args.suite, "templates": self._templates}
    settings |= {"seed": self._options.seed}
    settings = json.loads(json.dumps(settings))
    if found := distributed.together(_finished, out, settings):
      _say(f"{benchmark['name']} {split}: is there")
      return found
    return self._make(benchmark, source, out, settings)

  def _make(self, benchmark, source, out, settings):
    parts = distributed.together(_open_parts, out, settings)
    found = distributed.together(self._records, source)
    asked = [self._asked(record, benchmark) for record in found.records]
    records = [record for record, _ in asked]
    work = Work(self._loaded, records, self._options, found.image_of, self._generator)
    _say(f"{benchmark['name']} {out.name.rpartition('_')[2]}: {len(records)}")
    distributed.together(shares.do_share, work, parts, out)
    distributed.barrier(f"eval: all parts of {out.name} are written")
    result = distributed.together(self._conclude, benchmark, work, parts, out)
    if result:
      counts = {"defective": len(found.problems), "rejected": source.counts["rejected"]}
      counts["asked_as_they_stand"] = sum(as_it_stands for _, as_it_stands in asked)
      result = {"settings": settings} | result
      result["counts"] |= counts
      text = json.dumps(result, indent=1, allow_nan=False) + "\n"
      workdir.write_atomically(out / RESULT, text)
      parts.remove()
    distributed.barrier(f"eval: {out.name} is written")
    return result or {}

  def _records(self, source):
    quiet = not distributed.is_first()
    return read_records(source, self._args.limit, shown=source.file, quiet=quiet)

  def _asked(self, record, benchmark):
    """(record with the fixed question, whether its own was left as it stands)."""
    text, one = None, len(record.turns) == 2 and record.targets
    if one and benchmark.get("asked") != AS_IT_STANDS:
      kind = "question" if record.targets[0][0] == reasonseg.NAME else "phrase"
      key = f"{record.source}/{record.id}"
      text = wording.value_of(record.turns[0][1], kind, key)
    if text is None:
      return record, True
    question = wording.fill(self._templates[kind], {kind: text})
    turns = (("user", question), *record.turns[1:])
    return dataclasses.replace(record, turns=turns), False

  def _conclude(self, benchmark, work, parts, out):
    if not distributed.is_first():
      return None
    parts.find()
    found = work.collect(parts)
    shares.write_lines(out / shares.PREDICTIONS, found.lines)
    samples = suite_table.Samples(benchmark)
    for line in found.lines:
      samples.add(line)
    counts = {"conversations": len(found.lines), "failed": list(found.failed.values())}
    seed = self._options.seed
    return {"counts": counts, "parts": samples.metrics(seed=seed)}


def _open_parts(out, settings):
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{out}: cannot be made: {error.strerror}") from error
  return parts_lib.open_parts(out, settings, distributed.is_first())


def _finished(out, settings):
  """The result that is there, {} where there is none. UserError where it is of other
  settings."""
  found = regular_file.read_object(out / RESULT)
  if found and not all(isinstance(found.get(name), dict) for name in HELD):
    raise UserError(
      f"{out / RESULT}: lacks one of {', '.join(HELD)}: not what this command wrote;"
      " take it away, or take another --out"
    )
  if name := found and parts_lib.first_difference(found["settings"], settings):
    raise UserError(
      f"{out}: holds results of {name}={found['settings'].get(name)!r}, not"
      f" {settings.get(name)!r}; take another --out"
    )
  return found


def _say(text):
  if distributed.is_first():
    print(text, file=sys.stderr)


def _write(out, suite, found):
  text = json.dumps(found, indent=1, allow_nan=False) + "\n"
  workdir.write_atomically(out / "suite.json", text)
  page = suite_table.page(suite, found)
  workdir.write_atomically(out / "suite.md", page)
  print(page)
  print(f"suite: {out / 'suite.json'}")
