"""Bootstrap, permutations, Holm, power: right numbers, and false alarms as said."""

import itertools
import types

import numpy as np
import pytest

from miras_jax.compare import align, paired, power, result
from miras_jax.evaluation import metrics


def sums(num, den=None):
  """Sums of one metric by image."""
  num = np.asarray(num, float)[:, None]
  den = np.ones_like(num) if den is None else np.asarray(den, float)[:, None]
  return paired.Sums(num, den)


def permuted(a, b, **options):
  p_K, tried = paired.permutation_p(a, b, **{"permutations": 999, "seed": 0} | options)
  return p_K[0], tried


def test_p_of_few_images_is_the_share_of_all_swaps():
  """By hand: 3 of the 8 ways to sign 1, 2, 3 give a sum of at least |4| twice over."""
  a, b = sums([0, 0, 0]), sums([1, 2, 3])
  signed = [abs(np.dot(s, [1, 2, 3])) for s in itertools.product([-1, 1], repeat=3)]
  assert permuted(a, b) == (np.mean(np.array(signed) >= 6), 8)
  assert permuted(a, b)[0] == 0.25


def test_p_of_many_images_is_never_0_and_is_small_for_a_constant_gain():
  a, b = sums(np.zeros(60)), sums(np.ones(60))
  assert permuted(a, b) == (1 / 1000, 999)


def test_equal_runs_have_p_1_and_no_effect():
  a = sums(np.linspace(0, 1, 40))
  assert permuted(a, a)[0] == 1.0
  assert paired.bootstrap_p(np.zeros((50, 1)))[0] == 1.0
  assert np.isnan(paired.effects(a, a)["effect"][0])


def test_a_ratio_of_sums_is_swapped_image_by_image():
  """Two images, four swaps: two of them are the runs as they are or all changed."""
  a, b = sums([1, 8], [2, 10]), sums([2, 9], [2, 12])
  seen = 11 / 14 - 9 / 12
  mixed = abs((2 + 8) / (2 + 10) - (1 + 9) / (2 + 12))
  assert permuted(a, b)[0] == (1.0 if mixed >= seen else 0.5)


def test_the_bootstrap_resamples_both_runs_alike():
  base = np.random.default_rng(0).random(30)
  runs = [sums(base), sums(base + 0.25)]
  samples = paired.bootstrap(runs, resamples=200, seed=1)
  np.testing.assert_allclose(samples[1] - samples[0], 0.25)
  assert samples[0].std() > 0.01


def test_a_metric_without_rows_has_no_value_and_no_p():
  a = sums([0, 0], [0, 0])
  assert np.isnan(a.values()[0]) and np.isnan(permuted(a, a)[0])
  low, high = paired.interval(paired.bootstrap([a], resamples=9, seed=0)[0], 0.05, 9)
  assert np.isnan(low[0]) and np.isnan(high[0])


def test_holm_by_hand():
  np.testing.assert_allclose(
    paired.holm([0.01, 0.04, 0.03, np.nan, 0.9]), [0.04, 0.09, 0.09, np.nan, 0.9]
  )


def test_effect_and_counts_of_images():
  a, b = sums([0.0, 0.0, 0.5, 0.5]), sums([1.0, 0.0, 0.5, 0.25])
  found = {k: v[0] for k, v in paired.effects(a, b).items()}
  delta = np.array([1, 0, 0, -0.25])
  assert found["effect"] == pytest.approx(delta.mean() / delta.std(ddof=1))
  assert (found["higher"], found["lower"], found["differ"]) == (1, 1, 2)


# -- two seeds of one config --------------------------------------------------------


def seeds(rng, gain=0.0, images=40):
  """Scored tables of two runs whose masks differ by chance alone, plus a gain."""
  owner = np.repeat(np.arange(images), 3)
  count, hard = len(owner), rng.beta(2, 2, images)[owner]
  true = rng.integers(20, 400, count) * (rng.random(count) > 0.1)
  out = []
  for extra in (0.0, gain):
    share = np.clip(hard + extra + 0.2 * rng.standard_normal(count), 0, 1)
    inter = np.floor(true * share)
    pred = inter + np.floor(rng.random(count) * 60)
    biou = np.clip(share + 0.1 * rng.standard_normal(count), 0, 1)
    table = {"inter": inter, "pred": pred, "true": true, "biou": biou}
    out.append(metrics.metric_columns(table))
  scored = types.SimpleNamespace(
    sums=[paired.image_sums(columns, owner, images) for columns in out],
    names=list(out[0]),
    images=range(images),
    targets=count,
    iou={},
  )
  return scored


def compare(scored, **changes):
  runs = [types.SimpleNamespace(label=x, path=x, about={}, talks=[]) for x in "AB"]
  options = {"level": 0.05, "resamples": 400, "seed": 0, "power": False} | changes
  args = types.SimpleNamespace(**options)
  return result.compare(runs, [], scored, align.Found(), args)


def any_significant(scored):
  rows = compare(scored)["pairs"][0]["metrics"].values()
  return any(row["significant"] for row in rows)


def test_100_pairs_of_seeds_raise_no_more_false_alarms_than_the_level():
  rng = np.random.default_rng(0)
  assert sum(any_significant(seeds(rng)) for _ in range(100)) <= 5


def test_one_metric_alone_raises_as_many_false_alarms_as_the_level_says():
  """Uncorrected p of one metric is uniform: 300 repeats, within three deviations."""
  rng, alarms = np.random.default_rng(1), 0
  for _ in range(300):
    a, b = seeds(rng).sums
    p_K, _ = paired.permutation_p(a, b, permutations=199, seed=0)
    alarms += p_K[0] <= 0.05
  assert abs(alarms - 15) <= 3 * np.sqrt(300 * 0.05 * 0.95)


def test_a_better_seed_is_found():
  rng = np.random.default_rng(2)
  assert all(any_significant(seeds(rng, gain=0.15)) for _ in range(5))


# -- power --------------------------------------------------------------------------


def test_images_for_an_interval_of_a_share():
  """1.96^2 p (1 - p) / w^2, the textbook number."""
  run = sums([0, 1] * 200)
  row = power.single(run, ["p@0.5"], level=0.05, half_width=0.05)["p@0.5"]
  assert row["images_for_interval"] == pytest.approx(1.96**2 * 0.25 / 0.05**2, rel=0.01)
  assert row["half_width"] == pytest.approx(1.96 * 0.5 / 20, rel=0.01)


def test_the_chance_to_find_a_difference_is_what_simulation_says():
  rng, spread = np.random.default_rng(3), 0.2
  a, b = sums(np.zeros(50)), sums(spread * rng.standard_normal(50))
  aim = {"level": 0.05, "half_width": 0.1, "difference": 0.08, "power": 0.8}
  row = power.pair(a, b, ["giou"], **aim)["giou"]
  drawn = 0.08 + row["spread"] * rng.standard_normal((20_000, 50))
  found = np.abs(drawn.mean(1)) > 1.96 * row["spread"] / np.sqrt(50)
  assert row["power"] == pytest.approx(found.mean(), abs=0.01)
  needed = {**aim, "difference": row["least_difference"]}
  assert power.pair(a, b, ["giou"], **needed)["giou"]["power"] == pytest.approx(
    0.8, abs=1e-3
  )


def test_the_standard_error_of_a_ratio_is_that_of_the_bootstrap():
  rng = np.random.default_rng(4)
  den = rng.integers(50, 500, 200)
  run = sums(np.floor(den * rng.random(200)), den)
  samples = paired.bootstrap([run], resamples=4000, seed=0)[0][:, 0]
  row = power.single(run, ["ciou"], level=0.05, half_width=0.1)["ciou"]
  assert row["half_width"] / 1.96 == pytest.approx(samples.std(), rel=0.05)


def test_runs_without_spread_promise_nothing():
  row = power.single(sums(np.zeros(9)), ["p@0.9"], level=0.05, half_width=0.1)["p@0.9"]
  assert row["images_for_interval"] is None
