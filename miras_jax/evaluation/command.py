"""Scores a checkpoint on a split and writes a report.

  miras eval --checkpoint=runs/first --data=data/synth --split=val --out=report
  miras eval --checkpoint=runs/first/checkpoints/2000 --data=data/synth \\
      --out=report_gold --history=gold --limit=100

Free-running: the model's own answers become the history (--history=gold takes those of
the data), and a target without a [SEG] counts as an empty mask. Masks are scored at the
original size of each image. The same checkpoint is scored on three controls, in which
the mask must suffer: the conversation swapped, its last turn alone, the image swapped.

OUT/metrics.json        every metric with its 95 % interval, controls, teacher forcing
OUT/predictions.jsonl   one conversation a line: turns, generated texts, masks, IoU
OUT/index.html          the report; also curves.png and overlays.png
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time

import numpy as np
import tqdm

from input_pipeline import examples, image_ops, mask_ops, prist
from input_pipeline.conversation import count_segs
from input_pipeline.records import RecordError
from miras_jax import cli
from miras_jax import drawing as overlays
from miras_jax.errors import UserError
from miras_jax.evaluation import controls, metrics, report, text_metrics
from miras_jax.inference import conversation as inference
from miras_jax.inference import rollout

VIEW_CACHE_BYTES = 2**29
HEADLINE = ("ciou", "giou", "precision_micro", "recall_micro", "f1_micro", "seg_rate")


@dataclasses.dataclass(frozen=True)
class Options:
  """How to evaluate; the command line's flags."""

  history: str = "model"
  batch_size: int = 64
  max_new_tokens: int = 64
  controls: bool = True
  resamples: int = 1000
  seed: int = 0


def main(argv):
  """`miras eval ...`; see the module's head."""
  args = _parser().parse_args(argv)
  for name in ("batch_size", "max_new_tokens", "limit"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  out = _make_folder(args.out)
  dataset = prist.read_dataset(args.data, args.split)
  records, defects = read_records(dataset, args.limit)
  loaded = inference.load(args.checkpoint)
  options = Options(
    history=args.history,
    batch_size=min(args.batch_size, len(records)),
    max_new_tokens=args.max_new_tokens,
    controls=not args.no_controls,
    seed=args.seed,
  )
  start = time.perf_counter()
  found = evaluate(loaded, records, options)
  result = found.result | {
    "config": json.loads(loaded.config.to_json()),
    "data": {"dir": str(args.data), "split": args.split} | found.result["data"],
    "checkpoint": str(args.checkpoint),
    "step": loaded.step,
  }
  result["data"] |= {"defective": [str(p) for p in defects]}
  write(out, result, found, args.examples, options.seed, loaded.log)
  _print_summary(result, out, time.perf_counter() - start)
  return 0


def _parser():
  parser = cli.Parser(prog="miras eval", description=__doc__)
  add = parser.add_argument
  add("--checkpoint", required=True, help="a --workdir of `miras train`, or one step")
  add("--data", required=True, help="folder of the data set, in PRIST's layout")
  add("--split", default="val", help="a list at its root, without .json (val)")
  add("--out", required=True, help="folder for the results")
  add("--history", choices=("model", "gold"), default="model", help="whose answers")
  add("--limit", type=int, help="take only the first N conversations")
  add("--batch_size", type=int, default=64, help="conversations at a time (64)")
  add("--max_new_tokens", type=int, default=64, help="longest answer (64)")
  add("--no_controls", action="store_true", help="leave the controls out")
  add("--examples", type=int, default=16, help="conversations to draw (16)")
  add("--seed", type=int, default=0, help="of intervals and drawn examples (0)")
  return parser


def _make_folder(path):
  """The folder, made now: a run must not fail at its end."""
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    probe = pathlib.Path(path) / ".write_test"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise UserError(f"--out={path}: cannot be written: {error.strerror}") from error
  return pathlib.Path(path)


def read_records(dataset, limit=None):
  """(records, problems): a defective record is named, counted and left out."""
  records, problems = [], []
  for i in range(len(dataset)):
    if limit is not None and len(records) == limit:
      break
    record = dataset.load(i)
    if isinstance(record, RecordError):
      problems.append(record.problem)
      print(f"{record.problem} (left out)", file=sys.stderr)
    else:
      records.append(record)
  if not records:
    raise UserError(f"{dataset.root}: no usable record in {dataset.file}")
  return records, problems


@dataclasses.dataclass
class Found:
  """What `evaluate` gives: the object of metrics.json without config and checkpoint,
  the lines of predictions.jsonl, and `example(i)` to look at."""

  result: dict
  predictions: list
  example: object


def evaluate(loaded, records, options):
  """Scores `records` (SegConversation) by every metric -> Found."""
  views_of = view_cache(records, loaded.data)
  runner = rollout.Rollout(
    loaded,
    loaded.generator(options.max_new_tokens),
    views_of,
    batch_size=options.batch_size,
  )
  gold = options.history == "gold"
  plan = controls.plan(records, gold=gold, enabled=options.controls)
  answers = runner.run(plan.jobs, functools.partial(_bar, "free-running"))
  predicted = controls.collect(plan, answers, records, views_of, loaded.data.sam_size)
  tables = {
    name: score(records, masks, canny=name == "free_running")
    for name, masks in predicted.items()
  }
  forced_table = score(records, _forced(loaded, records, views_of, options))
  sampling = {"resamples": options.resamples, "seed": options.seed}
  main = tables["free_running"]
  own = answers[: len(records)]  # the jobs of the free-running pass come first
  result = {
    "metrics": metrics.mask_metrics(main, **sampling)
    | _answer_metrics(records, own, loaded, sampling),
    "controls": {
      name: metrics.mask_metrics(table, **sampling)
      for name, table in tables.items()
      if name != "free_running"
    },
    "teacher_forced": metrics.mask_metrics(forced_table, **sampling),
    "per_turn": metrics.per_turn(main, **sampling),
    "data": {
      "conversations": len(records),
      "images": len({controls.image_key(r) for r in records}),
      "targets": len(main["image"]),
      "history": options.history,
      "questions_too_long": runner.too_long,
      "questions_shortened": runner.shortened,
    }
    | plan.counts,
  }
  predictions = [
    _prediction(record, turns, predicted["free_running"][i])
    for i, (record, turns) in enumerate(zip(records, own, strict=True))
  ]
  example = functools.partial(_example, records, own, predicted, plan)
  return Found(result, predictions, example)


def _bar(title, batches):
  return tqdm.tqdm(batches, desc=title, unit="batch", file=sys.stderr, disable=None)


def view_cache(records, data):
  """Function from a record's index to the views of its image, the latest ones kept."""
  first = {}
  for i, record in enumerate(records):
    first.setdefault(controls.image_key(record), i)
  bytes_each = 3 * (data.sam_size**2 + data.aux_size**2)

  @functools.lru_cache(maxsize=max(1, VIEW_CACHE_BYTES // bytes_each))
  def views(i):
    return examples.make_views(records[i].image, data)

  return lambda i: views(first[controls.image_key(records[i])])


def _forced(loaded, records, views_of, options):
  """Teacher-forced masks of every target, in the shape `score` wants."""
  found = rollout.teacher_forced(
    loaded,
    records,
    views_of,
    batch_size=options.batch_size,
    progress=functools.partial(_bar, "teacher-forced"),
  )
  return [
    controls.at_original_size(logits, views_of(i), loaded.data.sam_size)
    for i, logits in enumerate(found)
  ]


def score(records, masks, *, canny=False):
  """Table of all targets. `masks[i][k]` is the bool mask for target k of record i, or
  None where there was none: an empty mask."""
  targets = metrics.Targets(canny=canny)
  for record, predicted in zip(records, masks, strict=True):
    dues = controls.dues(record)
    for (turn, index), (_, rle), mask in zip(
      dues, record.targets, predicted, strict=True
    ):
      true_HW = mask_ops.decode_rle(rle)
      pred_HW = np.zeros_like(true_HW) if mask is None else mask
      targets.add(
        pred_HW,
        true_HW,
        image=controls.image_key(record),
        conversation=record.id,
        turn=turn,
        index=index,
      )
  return targets.table()


def _answer_metrics(records, answers, loaded, sampling):
  """[SEG] rates over answers, and the text metrics."""
  image, due, made, said, gold = [], [], [], [], []
  for record, turns in zip(records, answers, strict=True):
    for answer, text in zip(turns, spoken(record, loaded.data), strict=True):
      image.append(controls.image_key(record))
      due.append(count_segs(text))
      made.append(answer.num_seg)
      said.append(answer.text)
      gold.append(text)
  columns = metrics.seg_columns(np.array(due), np.array(made))
  rates = metrics.summarise(columns, image, **sampling)
  return rates | text_metrics.text_metrics(said, gold, image, **sampling)


def spoken(record, data):
  """The gold answers as the model was taught to say them: with target names or not."""
  names = iter([name for name, _ in record.targets])
  return [
    controls.with_names(text, names) if data.name_targets else text
    for role, text in record.turns
    if role == "assistant"
  ]


def _prediction(record, turns, masks):
  """One line of predictions.jsonl."""
  questions = [text for role, text in record.turns if role == "user"]
  gold = [text for role, text in record.turns if role == "assistant"]
  targets = []
  for (turn, index), (name, rle), mask in zip(
    controls.dues(record), record.targets, masks, strict=True
  ):
    true = mask_ops.decode_rle(rle)
    pred = np.zeros_like(true) if mask is None else mask
    targets.append(
      {
        "turn": turn,
        "index": index,
        "name": name,
        "produced": mask is not None,
        "mask": mask_ops.encode_rle(pred),
        "iou": metrics.published_ciou(pred, true),
      }
    )
  return {
    "id": record.id,
    "image": record.image_id,
    "turns": [
      {"user": q, "answer": a.text, "gold": g, "num_seg": a.num_seg}
      for q, a, g in zip(questions, turns, gold, strict=True)
    ],
    "targets": targets,
  }


def _example(records, answers, predicted, plan, i):
  """Record i as an `overlays.Example`: target, prediction and the controls' masks."""
  record = records[i]
  image_HWC = image_ops.decode_image(record.image)
  true = tuple(mask_ops.decode_rle(rle) for _, rle in record.targets)
  panels = [
    overlays.Panel("image", image_HWC),
    overlays.Panel("target", image_HWC, true),
  ]
  for name, masks in predicted.items():
    # A missing mask stays as an empty one: colours go by the target's place.
    drawn = tuple(
      np.zeros_like(t) if m is None else m for t, m in zip(true, masks[i], strict=True)
    )
    title = "prediction" if name == "free_running" else name.replace("_", " ")
    panels.append(overlays.Panel(title, image_HWC, drawn))
  prediction = _prediction(record, answers[i], predicted["free_running"][i])
  ious = (f"{t['iou']:.2f} {t['name'] or 'nothing'}" for t in prediction["targets"])
  turns = tuple((t["user"], t["answer"], t["gold"]) for t in prediction["turns"])
  caption = f"IoU: {', '.join(ious)}" if true else "no target"
  return overlays.Example(record.id, turns, tuple(panels), caption)


def write(out, result, found, num_examples, seed, log):
  """Writes every file of the report into folder `out`."""
  rng = np.random.default_rng(seed)
  count = min(num_examples, len(found.predictions))
  drawn = sorted(rng.choice(len(found.predictions), count, replace=False).tolist())
  text = json.dumps(result, indent=1, allow_nan=False) + "\n"
  (out / "metrics.json").write_text(text, encoding="utf-8")
  with open(out / "predictions.jsonl", "w", encoding="utf-8") as f:
    f.writelines(json.dumps(line) + "\n" for line in found.predictions)
  report.write_report(out, result, [found.example(i) for i in drawn], log)


def _print_summary(result, out, seconds):
  data = result["data"]
  print(
    f"{data['conversations']} conversations, {data['targets']} targets, "
    f"{data['images']} images in {seconds:.0f} s"
  )
  rows = [(name, result["metrics"][name]) for name in HEADLINE]
  rows += [("ciou, teacher-forced", result["teacher_forced"]["ciou"])]
  rows += [
    (f"ciou, {name.replace('_', ' ')}", table["ciou"])
    for name, table in result["controls"].items()
  ]
  for name, m in rows:
    low, high = report.number(m["low"]), report.number(m["high"])
    print(f"  {name:<28} {report.number(m['value'])}   [{low}, {high}]")
  print(f"report: {out / 'index.html'}")


if __name__ == "__main__":
  cli.run(main)
