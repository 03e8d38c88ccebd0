"""Numbers with a bootstrap interval over images.

Every statistic here is a function of sums over items, so a resample is a vector of
weights and all of them are one matrix product. Suffixes: N items, G images, R
resamples, K sums.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def interval(
  rows_NK, images, function: Callable, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict:
  """{"value", "low", "high", "n"} of `function` of the summed rows.

  function: sums (..., K) -> values (...), NaN where there is none. images: of each
  item; its image's items are drawn together. None in place of a number that is
  undefined; the interval is of the resamples in which the statistic is defined.
  """
  rows_NK = np.asarray(rows_NK, float)
  if not len(rows_NK):
    return {"value": None, "low": None, "high": None, "n": 0}
  _, group_N = np.unique(np.asarray(images, dtype=str), return_inverse=True)
  sums_GK = np.zeros((group_N.max() + 1, rows_NK.shape[1]))
  np.add.at(sums_GK, group_N, rows_NK)
  samples_R = function(resample(sums_GK, seed, resamples))
  samples_R = samples_R[np.isfinite(samples_R)]
  low, high = None, None
  if len(samples_R) and len(sums_GK) > 1:  # one image says nothing of others
    tail = (1 - LEVEL) / 2
    low, high = map(number, np.quantile(samples_R, (tail, 1 - tail)))
  value = number(function(sums_GK.sum(0)))
  return {"value": value, "low": low, "high": high, "n": len(rows_NK)}


def resample(sums_GK, seed, resamples):
  """Sums (R, K) of `resamples` draws of as many images, with replacement."""
  G = len(sums_GK)
  rng = np.random.default_rng(seed)
  weights_RG = rng.multinomial(G, np.full(G, 1 / G), size=resamples)
  return weights_RG @ sums_GK


def mean(values_N, images, **options) -> dict:
  """Mean with its interval."""
  rows_NK = [(value, 1.0) for value in values_N]
  return interval(rows_NK, images, ratio, **options)


def ratio(sums_K):
  """First sum over the second."""
  return divide(sums_K[..., 0], sums_K[..., 1])


def divide(above, below):
  """above / below, NaN where that is undefined."""
  above, below = np.asarray(above, float), np.asarray(below, float)
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.where(below != 0, above / below, np.nan)


def number(x) -> float | None:
  """A float for JSON: None for what is not finite."""
  return float(x) if np.isfinite(x) else None
