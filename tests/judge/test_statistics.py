"""Agreement and preference against published numbers and closed forms."""

import numpy as np
import pytest

from miras_jax.judge import agreement, preference, statistics
from miras_jax.judge.agreement import Unit
from miras_jax.judge.preference import Contest

# Krippendorff (2011), section C: four observers, twelve units, missing ratings.
OBSERVERS = (
  "1 2 3 3 2 1 4 1 2 . . .",
  "1 2 3 3 2 2 4 1 2 5 . 3",
  ". 3 3 3 2 3 4 2 2 5 1 .",
  "1 2 3 3 2 4 4 1 2 5 1 .",
)
PUBLISHED = [
  Unit(str(u), {f"o{k}": int(r) - 1 for k, r in enumerate(given) if r != "."})
  for u, given in enumerate(zip(*(o.split() for o in OBSERVERS), strict=True))
]


def confusion(*counts):
  """Units of two raters of two categories: yes/yes, yes/no, no/yes, no/no."""
  places = [(1, 1), (1, 0), (0, 1), (0, 0)]
  return [
    Unit(f"{place}{n}", {"a": place[0], "b": place[1]})
    for place, count in zip(places, counts, strict=True)
    for n in range(count)
  ]


@pytest.mark.parametrize(
  "metric, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_the_published_one(metric, published):
  found = agreement.alpha(PUBLISHED, 5, metric)
  assert found["value"] == pytest.approx(published, abs=5e-4)
  assert (found["n"], found["raters"]) == (11, 4)  # unit 12 has one rating
  assert found["low"] < found["value"] < found["high"]


def test_alpha_of_ratings_that_are_all_the_same_is_none():
  units = [Unit(str(i), {"a": 2, "b": 2}) for i in range(5)]
  found = agreement.alpha(units, 5, "ordinal")
  assert (found["value"], found["low"], found["high"]) == (None, None, None)


def test_kappa_of_counts():
  # (20 + 15) / 50 observed, (25 * 30 + 25 * 20) / 50^2 expected.
  found = agreement.kappa(confusion(20, 5, 10, 15), "a", "b", 2, False)
  assert found["value"] == pytest.approx(0.4)
  assert found["low"] < 0.4 < found["high"]


def test_weighted_kappa_forgives_neighbours():
  def units(other):
    return [Unit(str(i), {"a": i, "b": other[i]}) for i in range(5)]

  near = agreement.kappa(units([1, 0, 2, 3, 4]), "a", "b", 5, True)["value"]
  far = agreement.kappa(units([4, 1, 2, 3, 0]), "a", "b", 5, True)["value"]
  assert near == pytest.approx(1 - 2 / 20)  # 2 of the squared distance by chance
  assert far == pytest.approx(1 - 32 / 20)


def test_kappa_is_of_what_both_rated():
  units = [*confusion(2, 1, 0, 2), Unit("x", {"a": 1}), Unit("y", {"b": 1})]
  assert agreement.kappa(units, "a", "b", 2, False)["n"] == 5
  assert agreement.kappa(units, "a", "nobody", 2, False)["value"] is None


def test_interval_draws_images_not_items():
  values, images = [0.0] * 50 + [1.0] * 50, ["one"] * 50 + ["other"] * 50
  found = statistics.mean(values, images)
  assert (found["value"], found["low"], found["high"]) == (0.5, 0.0, 1.0)


def test_one_image_gives_no_interval():
  found = statistics.mean([1.0, 3.0], ["one", "one"])
  assert (found["value"], found["low"], found["high"]) == (2.0, None, None)


def test_interval_is_the_same_each_time():
  values = np.random.default_rng(0).normal(size=30)
  first, second = (statistics.mean(values, range(30), seed=3) for _ in range(2))
  assert first == second
  assert first["low"] < first["value"] < first["high"]


def contests(first, second, wins, ties, losses):
  results = [1] * wins + [0] * ties + [-1] * losses
  return [Contest(f"{i}", first, second, r) for i, r in enumerate(results)]


def test_strengths_of_two_have_a_closed_form():
  found = preference.strengths(contests("a", "b", 30, 12, 10), ["a", "b"])
  a, b = (found["systems"][name]["value"] for name in "ab")
  wins, ties, losses = (n + preference.PRIOR for n in (30, 12, 10))
  assert a - b == pytest.approx(np.log(wins / losses))
  assert a + b == pytest.approx(0)
  assert found["tie"] == pytest.approx(ties / np.sqrt(wins * losses))
  assert found["systems"]["a"]["low"] > 0 > found["systems"]["b"]["high"]


def test_strengths_of_four_are_recovered():
  true_S, tie = np.array([0.9, 0.1, -0.2, -0.8]), 0.6
  pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
  weights = []
  for i, j in pairs:
    p, q = np.exp(true_S[[i, j]])
    weights.append([p, tie * np.sqrt(p * q), q])
  share_P3 = np.array(weights)
  share_P3 /= share_P3.sum(1, keepdims=True)
  log_RS, tie_R = preference.fit(1e4 * share_P3[None], pairs, 4)
  np.testing.assert_allclose(log_RS[0], true_S, atol=1e-8)
  np.testing.assert_allclose(tie_R, tie, rtol=1e-8)


def test_who_always_wins_has_a_finite_strength():
  found = preference.strengths(contests("a", "b", 20, 0, 0), ["a", "b"])
  assert 0 < found["systems"]["a"]["value"] < 5


def test_order_in_which_a_contest_is_written_does_not_matter():
  one = contests("a", "b", 7, 2, 1)
  turned = [Contest(c.image, "b", "a", -c.result) for c in one]
  assert preference.strengths(one, ["a", "b"]) == preference.strengths(
    turned, ["a", "b"]
  )


def test_win_rate_counts_a_tie_as_half():
  found = preference.win_rate(contests("a", "b", 5, 2, 3))
  assert found["value"] == pytest.approx(0.6)
  assert (found["wins"], found["ties"], found["losses"]) == (5, 2, 3)
