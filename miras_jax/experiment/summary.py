"""Arms over seeds as numbers: means, intervals, differences from the first arm.

An arm's value is the mean of its seeds. Its interval resamples seeds and images both,
the same images for all arms; with three seeds it is rough. p is a permutation test over
images of the sums of all seeds: it speaks of these runs, not of seeds never trained.
"""

import numpy as np

from miras_jax.compare import align, data_set, paired, predictions, tables
from miras_jax.compare.power import finite
from miras_jax.errors import UserError

METRICS = ("ciou", "giou", "p@0.5", "biou", "seg_rate", "rouge_l")
TESTED = ("ciou", "giou")
LEVEL = 0.05


class Read:
  """One scored run. names: of its images; sums: `paired.Sums` by them; examples, table:
  what was scored."""

  def __init__(self, folder, data):
    try:
      run = predictions.read(folder, "A")
    except UserError as error:
      raise UserError(f"{error}; delete {folder} and run again") from None
    found = align.Found()
    self.examples = data_set.with_truth(align.align([run], found), data)
    scored = tables.Scored([run], self.examples, found, METRICS)
    if found.total():
      first = next(line for lines in found.lines.values() for line in lines)
      raise UserError(f"{folder}: {first}; delete the folder and run again")
    self.names, self.sums = scored.images, scored.sums[0]
    self.metrics, self.table = scored.names, scored.tables[0]


def on_images(read, images) -> paired.Sums:
  """Sums over `images`, {name: row}; a picture without a row adds nothing."""
  place = [images[name] for name in read.names]
  out = [np.zeros((len(images), side.shape[1])) for side in read.sums]
  for sums_GK, side_GK in zip(out, read.sums, strict=True):
    sums_GK[place] = side_GK
  return paired.Sums(*out)


def arms(reads, *, resamples, seed) -> list[dict]:
  """One row an arm. reads: {arm's name: [Read of each seed]}; the first is the base."""
  every = [read for arm in reads.values() for read in arm]
  names = dict.fromkeys(name for read in every for name in read.names)
  images = {name: row for row, name in enumerate(names)}
  sums = {
    arm: [on_images(read, images) for read in found] for arm, found in reads.items()
  }
  flat = [one for found in sums.values() for one in found]
  samples = iter(paired.bootstrap(flat, resamples=resamples, seed=seed))
  rng = np.random.default_rng(seed)
  drawn = {
    arm: _over_seeds(np.stack([next(samples) for _ in found]), rng)
    for arm, found in sums.items()
  }
  base, metrics = next(iter(sums)), every[0].metrics
  rows = [_arm(arm, sums[arm], drawn[arm], metrics) for arm in sums]
  for row in rows[1:]:
    row["difference"] = _difference(
      (sums[base], drawn[base]),
      (sums[row["arm"]], drawn[row["arm"]]),
      metrics,
      resamples,
    )
  _correct(rows[1:])
  return rows


def _over_seeds(samples_SRK, rng):
  """Means over resampled seeds (R, K)."""
  seeds, resamples, _ = samples_SRK.shape
  pick_RS = rng.integers(0, seeds, (resamples, seeds))
  return samples_SRK[pick_RS, np.arange(resamples)[:, None]].mean(1)


def _arm(name, sums, drawn_RK, metrics):
  values_SK = np.stack([one.values() for one in sums])
  low_K, high_K = paired.interval(drawn_RK, LEVEL, len(sums[0].num_GK))
  return {
    "arm": name,
    "metrics": {
      metric: {
        "value": finite(values_SK[:, k].mean()),
        "low": finite(low_K[k]),
        "high": finite(high_K[k]),
        "seeds": [finite(x) for x in values_SK[:, k]],
      }
      for k, metric in enumerate(metrics)
    },
    "difference": {},
  }


def _difference(base, other, metrics, permutations):
  (sums_a, drawn_a), (sums_b, drawn_b) = base, other
  low_K, high_K = paired.interval(drawn_b - drawn_a, LEVEL, len(sums_a[0].num_GK))
  pooled = [
    paired.Sums(*(np.sum(sides, 0) for sides in zip(*sums, strict=True)))
    for sums in (sums_a, sums_b)
  ]
  p_K, _ = paired.permutation_p(*pooled, permutations=permutations, seed=0)
  means = [np.mean([one.values() for one in sums], 0) for sums in (sums_a, sums_b)]
  return {
    metric: {
      "value": finite((means[1] - means[0])[k]),
      "low": finite(low_K[k]),
      "high": finite(high_K[k]),
      "p": finite(p_K[k]),
    }
    for k, metric in enumerate(metrics)
    if metric in TESTED
  }


def _correct(rows):
  """Holm over all arms and tested metrics."""
  tests = [test for row in rows for test in row["difference"].values()]
  p_M = [np.nan if test["p"] is None else test["p"] for test in tests]
  for test, p in zip(tests, paired.holm(p_M), strict=True):
    test["p_holm"] = finite(p)
