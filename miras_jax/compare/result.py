"""The comparison as numbers: what compare.json holds, and its tables as text."""

import itertools

import numpy as np

from miras_jax.compare import align, paired, power
from miras_jax.compare.power import finite
from miras_jax.compare.predictions import at

ALIKE = ("history", "state", "weights", "max_new_tokens")  # of `miras eval`
COLUMNS = ("difference", "low", "high", "p", "p_holm", "effect")


def compare(runs, examples, scored, found, args) -> dict:
  """The object of compare.json; see the head of command.py."""
  samples = paired.bootstrap(scored.sums, resamples=args.resamples, seed=args.seed)
  pairs = [
    _pair(scored, samples, places, args)
    for places in itertools.combinations(range(len(runs)), 2)
  ]
  tests = _correct(pairs, args.level)
  for pair, (a, b) in zip(pairs, itertools.combinations(runs, 2), strict=True):
    pair |= {"a": a.label, "b": b.label}
  result = {
    "runs": [
      _run(run, scored, samples[place], place, args) for place, run in enumerate(runs)
    ],
    "examples": len(examples),
    "targets": scored.targets,
    "images": len(scored.images),
    "level": args.level,
    "tests": tests,
    "resamples": args.resamples,
    "pairs": pairs,
    "problems": {kind: found.by_run(kind) for kind in align.KINDS},
    "changed": changed(runs, examples, scored),
  }
  if args.power:
    result["power"] = _power(runs, scored, args)
  return result


def _run(run, scored, samples_RK, place, args):
  sums = scored.sums[place]
  low_K, high_K = paired.interval(samples_RK, args.level, len(scored.images))
  return {
    "label": run.label,
    "path": run.path,
    "checkpoint": at(run.about, "checkpoint"),
    "step": at(run.about, "step", kind=int),
    "conversations": len(run.talks),
    "options": at(run.about, "options", kind=dict, default={}),
    "metrics": {
      name: {"value": finite(value), "low": finite(low_K[k]), "high": finite(high_K[k])}
      for k, (name, value) in enumerate(zip(scored.names, sums.values(), strict=True))
    },
  }


def _pair(scored, samples, places, args):
  a, b = (scored.sums[place] for place in places)
  delta_RK = samples[places[1]] - samples[places[0]]
  p_K, tried = paired.permutation_p(a, b, permutations=args.resamples, seed=args.seed)
  low_K, high_K = paired.interval(delta_RK, args.level, len(scored.images))
  columns = {
    "difference": b.values() - a.values(),
    "low": low_K,
    "high": high_K,
    "p": p_K,
    "p_bootstrap": paired.bootstrap_p(delta_RK),
    **paired.effects(a, b),
  }
  metrics = {
    name: {key: _plain(values[k]) for key, values in columns.items()}
    for k, name in enumerate(scored.names)
  }
  exact = len(scored.images) <= paired.MOST_EXACT  # a swap of all says the same twice
  least = min(1.0, 2 / tried) if exact else 1 / (1 + tried)
  return {"a": "", "b": "", "swaps": tried, "least_p": least, "metrics": metrics}


def _plain(x):
  return int(x) if isinstance(x, np.integer) else finite(x)


def _correct(pairs, level) -> int:
  """Adds `p_holm` and `significant` to every row of all pairs; how many tests.

  Where no image differs there is nothing to test, however the runs are swapped: the
  others need not be corrected for it.
  """
  rows = [row for pair in pairs for row in pair["metrics"].values()]
  tested = [row["p"] is not None and row["differ"] > 0 for row in rows]
  p_M = [row["p"] if test else np.nan for row, test in zip(rows, tested, strict=True)]
  for row, test, p in zip(rows, tested, paired.holm(p_M), strict=True):
    row |= {"p_holm": finite(p) if test else row["p"], "significant": bool(p <= level)}
  return sum(tested)


def changed(runs, examples, scored) -> list[dict]:
  """Each example with targets: mean IoU by run, the widest spread first."""
  rows = []
  for i, example in enumerate(examples):
    if not example.true:
      continue
    iou = {r.label: float(np.mean(scored.iou[p, i])) for p, r in enumerate(runs)}
    spread = max(iou.values()) - min(iou.values())
    rows.append(
      {
        "example": i,
        "id": example.id,
        "image": example.image,
        "iou": iou,
        "spread": spread,
      }
    )
  return sorted(rows, key=lambda row: -row["spread"])


def _power(runs, scored, args):
  wanted = {"level": args.level, "half_width": args.half_width}
  aim = {"difference": args.difference, "power": args.chance}
  names = scored.names
  single = [power.single(sums, names, **wanted) for sums in scored.sums]
  return {
    **wanted,
    **aim,
    "runs": {run.label: rows for run, rows in zip(runs, single, strict=True)},
    "pairs": [
      {"a": a.label, "b": b.label}
      | {
        "metrics": power.pair(*(scored.sums[p] for p in (i, j)), names, **wanted, **aim)
      }
      for (i, a), (j, b) in itertools.combinations(enumerate(runs), 2)
    ],
  }


def text(result) -> list[str]:
  """The tables that are printed."""
  lines = [f"{run['label']}  {run['path']}" for run in result["runs"]]
  lines.append(
    f"{result['examples']} conversations, {result['targets']} targets,"
    f" {result['images']} images; {result['tests']} tests, Holm-corrected"
  )
  values = {run["label"]: run["metrics"] for run in result["runs"]}
  for pair in result["pairs"]:
    lines += ["", *_pair_text(pair, values)]
  for line in filter(None, (hopeless(result), *otherwise(result))):
    lines += ["", line]
  return lines + power_text(result.get("power"))


def hopeless(result) -> str:
  """A warning where so few images or swaps can give no corrected p below the level."""
  least = min((pair["least_p"] for pair in result["pairs"]), default=0.0)
  if least * result["tests"] <= result["level"]:
    return ""
  return (
    f"No difference could be significant here: the least p of {result['images']} images"
    f" and {result['resamples']} swaps is {least:.2g}, times {result['tests']} tests."
    " Take fewer --metrics, more --resamples or more images."
  )


def otherwise(result) -> list[str]:
  """What the runs of a pair were not evaluated alike in, and pairs without a
  difference: two evaluations of one model, or one file twice."""
  options = {run["label"]: run["options"] for run in result["runs"]}
  lines = []
  for pair in result["pairs"]:
    a, b = pair["a"], pair["b"]
    for name in ALIKE:
      one, other = (options[label].get(name) for label in (a, b))
      if None not in (one, other) and one != other:
        lines.append(f"{a} was evaluated with {name}={one}, {b} with {name}={other}.")
    if not any(row["differ"] for row in pair["metrics"].values()):
      lines.append(f"{a} and {b} differ in no image, by any metric.")
  return lines


def _pair_text(pair, values):
  a, b = pair["a"], pair["b"]
  head = f"{'':20}{a:>8}{b:>8}{f'{b} - {a}':>10}{'interval':>19}"
  yield f"{head}{'p':>8}{'p Holm':>8}{'effect':>8}"
  for name, row in pair["metrics"].items():
    ends = f"[{number(row['low'])}, {number(row['high'])}]"
    yield (
      f"{name:20}{number(values[a][name]['value']):>8}"
      f"{number(values[b][name]['value']):>8}{number(row['difference'], sign=True):>10}"
      f"{ends:>19}{number(row['p'], 4):>8}{number(row['p_holm'], 4):>8}"
      f"{number(row['effect'], 2, sign=True):>8}{' *' if row['significant'] else ''}"
    )


def power_text(found) -> list[str]:
  """Lines: how many images a wanted interval or difference needs."""
  if not found:
    return []
  out = ["", f"images for an interval of +-{found['half_width']} (now)"]
  for label, rows in found["runs"].items():
    for name, row in rows.items():
      now = f"+-{number(row['half_width'])} from {row['images']}"
      out.append(f"{label}  {name:20}{_whole(row['images_for_interval']):>9}  ({now})")
  for pair in found["pairs"]:
    out += ["", *_pair_power(pair, found)]
  return out


def _pair_power(pair, found):
  yield (
    f"{pair['b']} - {pair['a']}: images for +-{found['half_width']}, and to find a"
    f" difference of {found['difference']} with chance {found['power']} (one test)"
  )
  yield f"{'':20}{'interval':>9}{'find':>9}{'chance now':>12}{'least now':>11}"
  for name, row in pair["metrics"].items():
    yield (
      f"{name:20}{_whole(row['images_for_interval']):>9}"
      f"{_whole(row['images_for_difference']):>9}{number(row['power'], 2):>12}"
      f"{number(row['least_difference']):>11}"
    )


def number(x, digits=3, sign=False) -> str:
  """A value for people; a dash where there is none."""
  return "–" if x is None else f"{x:{'+' if sign else ''}.{digits}f}"


def _whole(x):
  return "–" if x is None else f"{x:,}"
