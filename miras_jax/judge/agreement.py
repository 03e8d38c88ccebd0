"""How far raters agree: Krippendorff's alpha and Cohen's kappa, with intervals.

Ratings are small numbers 0 to C - 1. Suffixes: U units, C categories, R resamples.
Sources: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011); J. Cohen,
Educational and Psychological Measurement 20 (1960), and Psychological Bulletin 70
(1968) for the weighted form.
"""

from typing import NamedTuple

import numpy as np

from miras_jax.judge import statistics


class Unit(NamedTuple):
  """What was rated. image: of the bootstrap; ratings: {rater: category}."""

  image: str
  ratings: dict[str, int]


def alpha(units: list[Unit], categories: int, metric: str, **options) -> dict:
  """Krippendorff's alpha over all raters; {"value", "low", "high", "n", "raters"}.

  metric: "nominal", "ordinal" or "interval". A unit with one rating says nothing and is
  not counted. None where every rating is the same: there is no chance to agree by.
  """
  rated = [unit for unit in units if len(unit.ratings) > 1]
  rows_UK = [_coincidences(list(unit.ratings.values()), categories) for unit in rated]

  def of_sums(sums_K):
    return _alpha(sums_K.reshape(*sums_K.shape[:-1], categories, categories), metric)

  found = statistics.interval(rows_UK, [u.image for u in rated], of_sums, **options)
  return found | {"raters": len({rater for unit in rated for rater in unit.ratings})}


def kappa(units: list[Unit], a, b, categories: int, weighted: bool, **options) -> dict:
  """Cohen's kappa of raters a and b on what both rated, as `alpha` gives it.

  weighted: disagreement counts by its square, for ordered categories.
  """
  both = [unit for unit in units if a in unit.ratings and b in unit.ratings]
  rows_UK = np.zeros((len(both), categories * categories))
  for row_K, unit in zip(rows_UK, both, strict=True):
    row_K[unit.ratings[a] * categories + unit.ratings[b]] = 1

  def of_sums(sums_K):
    return _kappa(sums_K.reshape(*sums_K.shape[:-1], categories, categories), weighted)

  found = statistics.interval(rows_UK, [u.image for u in both], of_sums, **options)
  return {"a": a, "b": b} | found


def _coincidences(ratings, categories):
  """A unit's coincidence matrix (C * C,): each ordered pair of its ratings, shared out
  so that every rating counts once."""
  count_C = np.bincount(ratings, minlength=categories)
  pairs_CC = np.outer(count_C, count_C) - np.diag(count_C)
  return (pairs_CC / (len(ratings) - 1)).ravel()


def _alpha(observed_CC, metric):
  """1 - observed / expected disagreement of coincidences (..., C, C)."""
  count_C = observed_CC.sum(-1)
  total = count_C.sum(-1)
  delta_CC = _squared_distance(count_C, metric)
  expected_CC = count_C[..., :, None] * count_C[..., None, :]
  seen = (observed_CC * delta_CC).sum((-2, -1)) * (total - 1)
  by_chance = (expected_CC * delta_CC).sum((-2, -1))
  return 1 - statistics.divide(seen, by_chance)


def _squared_distance(count_C, metric):
  C = count_C.shape[-1]
  if metric == "nominal":
    return 1.0 - np.eye(C)
  place_C = np.arange(C)
  if metric == "interval":
    return np.square(place_C[:, None] - place_C, dtype=float)
  if metric != "ordinal":
    raise ValueError(f"no metric {metric!r}")
  # Ratings between the two, half of each end: the distance of their mid-ranks.
  middle_C = np.cumsum(count_C, -1) - count_C / 2
  return np.square(middle_C[..., :, None] - middle_C[..., None, :])


def _kappa(counts_CC, weighted):
  """1 - observed / expected disagreement of confusion counts (..., C, C)."""
  delta_CC = _squared_distance(counts_CC.sum(-1), "interval" if weighted else "nominal")
  total = counts_CC.sum((-2, -1))
  expected_CC = counts_CC.sum(-1)[..., :, None] * counts_CC.sum(-2)[..., None, :]
  seen = (counts_CC * delta_CC).sum((-2, -1)) * total
  return 1 - statistics.divide(seen, (expected_CC * delta_CC).sum((-2, -1)))
