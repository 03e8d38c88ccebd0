"""`miras data agreement A B`: how well two annotations of the same pictures agree.

Masks are matched by picture and name (several of one name: those that overlap most),
dialogues by picture: first those about the same targets, then in their order. Intervals
are 95 %, bootstrap over pictures. What is in one alone is named and counted, and so are
defective records, with exit status 1.

  giou, ciou    IoU: mean over targets, and of all pixels together
  f1_macro      Dice: mean over targets
  biou          IoU of the outlines, 2 % of the diagonal wide: mean over targets
  kappa         Cohen's kappa over pixels: of all together, _macro: mean over targets
  p@0.5, p@0.9  share of targets with at least that IoU
  found_f1      targets that both have, of those that either has
  focus_equal   dialogues about equal targets; turns_equal: of equal length;
                turns_apart: mean difference of their lengths; rouge_l: of their words
"""

import contextlib
import itertools
import json
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from input_pipeline import mask_ops
from input_pipeline.open_source import find_splits
from miras_jax.checkpoint import lock, workdir
from miras_jax.data import doubles
from miras_jax.errors import UserError
from miras_jax.evaluation import metrics
from miras_jax.evaluation.rouge import rouge_l
from miras_jax.options import Parser

KEPT = ("giou", "ciou", "f1_macro", "biou", "p@0.5", "p@0.9")
MOST_LETTERS = 20_000  # of a dialogue: ROUGE-L takes the product of two lengths
MOST_RESAMPLES = 10_000  # each holds a number a picture
_SHOWN = 10  # of each kind, on the screen; agreement.json has them all
_EXAMPLE = """examples:
  miras data agreement first second --split=val --out=agreement
  miras data agreement first second --images-dir=/photos

A and B are folders in PRIST's layout or what `miras data build` wrote."""


def main(argv) -> int:
  """Prints the agreement; 1 where a record is defective. UserError where the two have
  no picture in common."""
  args = _parser().parse_args(argv)
  for name, least in (("resamples", 1), ("seed", 0)):
    if getattr(args, name) < least:
      raise UserError(f"--{name}={getattr(args, name)}: want {least} or more")
  if args.resamples > MOST_RESAMPLES:
    raise UserError(f"--resamples={args.resamples}: want at most {MOST_RESAMPLES:,}")
  out = _make(args.out)
  with lock.hold(out, "miras data agreement") if out else contextlib.nullcontext():
    return _run(args, out)


def _run(args, out):
  splits = _splits(args)
  a, b = (doubles.read(p, splits, images_dir=args.images_dir) for p in (args.a, args.b))
  pairs = doubles.match(a, b)
  if not pairs.images:
    lines = [_few(f"defective in {x}", y.problems) for x, y in (("A", a), ("B", b))]
    raise UserError(
      f"{args.a} and {args.b} have no picture in common in {', '.join(splits)}",
      details="\n".join(itertools.chain(*lines)),
    )
  found, worst = agreement(pairs, resamples=args.resamples, seed=args.seed)
  result = {
    "a": args.a,
    "b": args.b,
    "splits": splits,
    "images": len(pairs.images),
    "masks": len(pairs.masks),
    "dialogues": len(pairs.dialogues),
    "metrics": found,
    "worst": worst,
    "only": {
      kind: {side: _lines(pairs.only[kind, side]) for side in "AB"} for kind in _KINDS
    },
    "other_size": _lines(pairs.sizes),
    "defective": {"A": a.problems, "B": b.problems},
  }
  print("\n".join(text(result)))
  if out:
    lines = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    workdir.write_atomically(out / "agreement.json", lines + "\n")
    print(out / "agreement.json")
  return int(bool(a.problems or b.problems))


_KINDS = ("images", "masks", "dialogues")


def _lines(found):
  return [": ".join(filter(None, entry)) for entry in found]


def _parser():
  parser = Parser(prog="miras data agreement", description=__doc__, epilog=_EXAMPLE)
  parser.add_argument("a", metavar="A", help="data set of one annotator")
  parser.add_argument("b", metavar="B", help="data set of the other")
  parser.add_argument("--split", default="", help="only these: val,test (all in both)")
  parser.add_place("--images-dir", help="folder of the photographs of both")
  parser.add_argument("--resamples", type=int, default=1000, help="of pictures (1000)")
  parser.add_argument("--seed", type=int, default=0, help="of the resamples (0)")
  parser.add_output("--out", help="folder for agreement.json")
  return parser


def _make(folder):
  if not folder:
    return None
  try:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={folder} cannot be made: {error.strerror}") from None
  return pathlib.Path(folder)


def _splits(args):
  """The splits that are named, else those that both have."""
  if wanted := [name.removesuffix(".json") for name in args.split.split(",") if name]:
    return wanted
  first, second = find_splits(args.a), find_splits(args.b)
  if not (both := sorted(set(first) & set(second))):
    raise UserError(
      f"{args.a} has {', '.join(first)}, {args.b} has {', '.join(second)}: no split in"
      " common"
    )
  return both


def agreement(pairs, *, resamples, seed) -> tuple[dict, list]:
  """({metric: {"value", "low", "high", "n"}}, targets by IoU, the lowest first)."""
  sampling = {"resamples": resamples, "seed": seed}
  table, areas_N4 = _targets(pairs.masks)
  columns = metrics.metric_columns(table)
  columns = {name: columns[name] for name in KEPT}
  kappa_N = kappa(areas_N4) if len(areas_N4) else np.zeros(0)
  columns["kappa_macro"] = (kappa_N, np.ones(len(kappa_N)))
  images = [image for image, *_ in pairs.masks]
  found = metrics.summarise(columns, images, **sampling)
  found["kappa"] = _pooled_kappa(areas_N4, images, **sampling)
  found |= metrics.summarise(*_found(pairs), **sampling)
  found |= metrics.summarise(*_dialogues(pairs.dialogues), **sampling)
  ious = metrics.iou(table).tolist() if images else []
  worst = [
    {"image": image, "name": name, "iou": iou}
    for iou, (image, name, *_) in zip(ious, pairs.masks, strict=True)
  ]
  return found, sorted(worst, key=lambda row: row["iou"])


def _targets(masks):
  """(table of `metrics.Targets`, pixels (N, 4): in both, in A, in B, all)."""
  targets, areas = metrics.Targets(), []
  for image, _, *rles in tqdm(
    masks, "comparing", unit="mask", file=sys.stderr, leave=False, disable=None
  ):
    a_HW, b_HW = (mask_ops.decode_rle(rle).astype(bool) for rle in rles)
    row = targets.add(b_HW, a_HW, image=image)
    areas.append((row["inter"], row["true"], row["pred"], a_HW.size))
  return targets.table(), np.array(areas, float).reshape(-1, 4)


def kappa(areas_X4) -> np.ndarray:
  """Cohen's kappa (X,) over pixels: in both, in A, in B, all. 1 where both annotators
  gave every pixel the same label: chance alone would agree there too."""
  both, a, b, size = np.moveaxis(areas_X4, -1, 0)
  agreed = (size - a - b + 2 * both) / size
  chance = (a * b + (size - a) * (size - b)) / size**2
  return np.where(
    chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), 1.0
  )


def _pooled_kappa(areas_N4, images, *, resamples, seed):
  if not images:
    return {"value": None, "low": None, "high": None, "n": 0}
  _, group_N = np.unique(np.array(images), return_inverse=True)
  sums_G4 = np.stack([np.bincount(group_N, x) for x in areas_N4.T], axis=1)
  count = len(sums_G4)
  draws_RG = np.random.default_rng(seed).multinomial(
    count, np.full(count, 1 / count), resamples
  )
  value = float(kappa(areas_N4.sum(0)))
  ends = metrics.ends(kappa(draws_RG @ sums_G4), count)
  return {"value": value, **ends, "n": len(images)}


def _found(pairs):
  """(columns, images): targets in both, twice, over those of A and of B."""
  both = [image for image, *_ in (*pairs.masks, *pairs.sizes)]
  alone = [image for side in "AB" for image, _ in pairs.only["masks", side]]
  num_N = np.array([2.0] * len(both) + [0.0] * len(alone))
  den_N = np.array([2.0] * len(both) + [1.0] * len(alone))
  return {"found_f1": (num_N, den_N)}, both + alone


def _dialogues(dialogues):
  """(columns, images) over pairs of dialogues."""
  lengths_N2 = np.array([(len(a.turns), len(b.turns)) for _, a, b in dialogues], float)
  lengths_N2 = lengths_N2.reshape(-1, 2) / 2  # a turn: what both said
  apart_N, one_N = np.abs(np.diff(lengths_N2)[:, 0]), np.ones(len(dialogues))
  equal_N = np.array([a.focus == b.focus for _, a, b in dialogues], float)
  columns = {
    "focus_equal": (equal_N, one_N),
    "turns_equal": (apart_N == 0, one_N),
    "turns_apart": (apart_N, one_N),
  }
  said = [
    [_words(d) for d in side] for side in zip(*(p for _, *p in dialogues), strict=True)
  ]
  columns["rouge_l"] = (rouge_l(*said) if said else np.zeros(0), one_N)
  return columns, [image for image, *_ in dialogues]


def _words(dialogue):
  return "\n".join(text for _, text in dialogue.turns)[:MOST_LETTERS]


def text(result) -> list[str]:
  """Lines: what is in one alone, the table, the targets that agree least."""
  lines = []
  for side, problems in result["defective"].items():
    lines += _few(f"defective in {side}", problems)
  for kind, sides in result["only"].items():
    for side, names in sides.items():
      lines += _few(f"{kind} only in {side}", names)
  lines += _few("other size", result["other_size"])
  lines.append(
    f"{result['images']:,} images, {result['masks']:,} masks and"
    f" {result['dialogues']:,} dialogues in both ({', '.join(result['splits'])})"
  )
  for name, m in result["metrics"].items():
    value, low, high = (_number(m[k]) for k in ("value", "low", "high"))
    lines.append(f"  {name:<14}{value:>8}   [{low}, {high}]  of {m['n']:,}")
  low = [row for row in result["worst"] if row["iou"] < 1][:_SHOWN]
  return lines + [f"IoU {w['iou']:.3f}: {w['image']}: {w['name']}" for w in low]


def _few(title, names):
  """A few of what there is, then how many."""
  if not names:
    return []
  lines = [f"{title}: {name}" for name in names[:_SHOWN]]
  return [*lines, f"{title}: {len(names):,}"]


def _number(x):
  return "–" if x is None else f"{x:.3f}"
