"""Runs on the same targets: what differs between two, and whether it may be chance.

A metric is sum(num) / sum(den) over rows (evaluation/metrics.py). Rows of one image are
not independent, so images are what is resampled, and what is swapped between two runs.

  bootstrap    percentiles of the difference over resampled images: its interval
  permutation  how often swapping the two runs on random images gives a difference at
               least as large: exact where the runs are alike (Good 2005); every swap
               is tried where there are at most MOST_EXACT images
  Holm         step-down correction over all tests of one comparison (Holm 1979)

G images, K metrics, R resamples, P permutations.
"""

from typing import NamedTuple

import numpy as np

MOST_EXACT = 12  # images: 2**12 swaps
BLOCK = 1 << 22  # numbers in memory at a time
TOLERANCE = 1e-10  # of differences that rounding alone tells apart


class Sums(NamedTuple):
  """What a run has on each image: sums of `num` and `den`, (G, K) each."""

  num_GK: np.ndarray
  den_GK: np.ndarray

  def values(self) -> np.ndarray:
    """The metrics (K,); NaN where there is no row."""
    return divide(self.num_GK.sum(0), self.den_GK.sum(0))

  def spread(self) -> np.ndarray:
    """What each image adds to the metrics (G, K), by linearisation of the ratio.

    Columns have mean 0; their standard deviation over sqrt(G) is the metric's standard
    error.
    """
    total_K = self.den_GK.sum(0)
    scale_K = divide(np.full(len(total_K), float(len(self.num_GK))), total_K)
    return (self.num_GK - self.values() * self.den_GK) * scale_K


def image_sums(columns, image_N, images) -> Sums:
  """Sums by image of {metric: (num_N, den_N)}; image_N: numbers below G = `images`."""
  image_N = np.asarray(image_N, np.int64)
  sums = [
    [np.bincount(image_N, np.asarray(x, float), minlength=images) for x in pair]
    for pair in columns.values()
  ]
  num_KG, den_KG = np.array(sums).reshape(len(columns), 2, images).swapaxes(0, 1)
  return Sums(num_KG.T, den_KG.T)


def divide(num, den):
  """num / den; NaN where den is not above 0."""
  return np.divide(num, den, out=np.full(np.shape(num), np.nan), where=den > 0)


def bootstrap(runs, *, resamples, seed) -> np.ndarray:
  """Metrics of each run on resampled images, the same images for all: (runs, R, K)."""
  rng = np.random.default_rng(seed)
  images = len(runs[0].num_GK)
  if not images:
    return np.full((len(runs), resamples, runs[0].num_GK.shape[1]), np.nan)
  share_G, parts = np.full(images, 1 / images), []
  for count in _blocks(resamples, images):
    draws_RG = rng.multinomial(images, share_G, count).astype(float)
    parts.append([divide(draws_RG @ run.num_GK, draws_RG @ run.den_GK) for run in runs])
  return np.concatenate(parts, axis=1)


def interval(samples_RK, level, images) -> tuple[np.ndarray, np.ndarray]:
  """Percentiles that hold all but `level` of the resamples with a value; NaN of a
  single image, which says nothing of others."""
  out_2K = np.full((2, samples_RK.shape[1]), np.nan)
  valid_K = np.isfinite(samples_RK).any(0) & (images > 1)
  ends = 100 * np.array([level / 2, 1 - level / 2])
  out_2K[:, valid_K] = np.nanpercentile(samples_RK[:, valid_K], ends, axis=0)
  return out_2K[0], out_2K[1]


def bootstrap_p(delta_RK) -> np.ndarray:
  """Two-sided p of a difference from its resamples; NaN where there is none."""
  with np.errstate(invalid="ignore"):
    tail_K = np.minimum((delta_RK <= 0).sum(0), (delta_RK >= 0).sum(0))
  count_K = np.isfinite(delta_RK).sum(0)
  return np.minimum(1.0, divide(2.0 * tail_K, count_K.astype(float)))


def permutation_p(a, b, *, permutations, seed) -> tuple[np.ndarray, int]:
  """(two-sided p (K,), how many swaps were tried); NaN where a run has no value."""
  images = len(a.num_GK)
  seen_K = np.abs(b.values() - a.values())
  exact = images <= MOST_EXACT
  count_K, tried = np.zeros(len(seen_K)), 0
  for swap_PG in _all_swaps(images) if exact else _swaps(images, permutations, seed):
    with np.errstate(invalid="ignore"):
      stays_PK = np.abs(_swapped(a, b, swap_PG)) < seen_K - TOLERANCE
    count_K += (~stays_PK).sum(0)  # one without a value counts against
    tried += len(swap_PG)
  p_K = count_K / tried if exact else (1 + count_K) / (1 + tried)
  return np.where(np.isfinite(seen_K), p_K, np.nan), tried


def _swapped(a, b, swap_PG):
  """Differences (P, K) after the runs have changed places on the images with a 1."""
  moved_num, moved_den = (
    swap_PG @ (b.num_GK - a.num_GK),
    swap_PG @ (b.den_GK - a.den_GK),
  )
  first = divide(a.num_GK.sum(0) + moved_num, a.den_GK.sum(0) + moved_den)
  second = divide(b.num_GK.sum(0) - moved_num, b.den_GK.sum(0) - moved_den)
  return second - first


def _all_swaps(images):
  bits = np.arange(2**images)[:, None] >> np.arange(images)
  yield (bits & 1).astype(float)


def _swaps(images, permutations, seed):
  rng = np.random.default_rng(seed)
  for count in _blocks(permutations, images):
    yield rng.integers(0, 2, (count, images)).astype(float)


def _blocks(total, width):
  """Sizes of the blocks of rows of `width` numbers that fit in memory."""
  step = max(1, BLOCK // max(1, width))
  for start in range(0, total, step):
    yield min(step, total - start)


def holm(p_M) -> np.ndarray:
  """Holm's corrected p values; a NaN is no test and stays one."""
  p_M = np.asarray(p_M, float)
  out_M, tests = np.full(p_M.shape, np.nan), np.flatnonzero(np.isfinite(p_M))
  highest = 0.0
  for rank, place in enumerate(tests[np.argsort(p_M[tests], kind="stable")]):
    highest = max(highest, min(1.0, (len(tests) - rank) * p_M[place]))
    out_M[place] = highest
  return out_M


def effects(a, b) -> dict[str, np.ndarray]:
  """Sizes of the difference, each (K,), besides the difference itself.

  effect: difference over the standard deviation of what each image adds to it (Cohen's
  d of pairs); NaN where no image differs. higher, lower: images on which run b has a
  higher or lower value; differ: those on which anything differs.
  """
  difference_K = b.values() - a.values()
  spread_K = paired_spread(a, b)
  value_a, value_b = divide(a.num_GK, a.den_GK), divide(b.num_GK, b.den_GK)
  delta_GK = value_b - value_a
  with np.errstate(invalid="ignore"):
    return {
      "effect": divide(difference_K, spread_K),
      "higher": (delta_GK > TOLERANCE).sum(0),
      "lower": (delta_GK < -TOLERANCE).sum(0),
      "differ": ((a.num_GK != b.num_GK) | (a.den_GK != b.den_GK)).sum(0),
    }


def paired_spread(a, b) -> np.ndarray:
  """Standard deviation over images of what each adds to the difference; (K,)."""
  return deviation(b.spread() - a.spread())


def deviation(values_GK) -> np.ndarray:
  """Standard deviation over images (K,); NaN for fewer than two. Rounding is none."""
  if len(values_GK) < 2:
    return np.full(values_GK.shape[1], np.nan)
  spread_K = values_GK.std(0, ddof=1)
  return np.where(spread_K < TOLERANCE, 0.0, spread_K)
