"""The fit finds a law that is there, and says when it cannot know."""

import numpy as np
import pytest

from miras_jax.scale import power_law

X = np.geomspace(1e12, 1e15, 7)
NOISE = np.array([0.01, -0.008, 0.003, -0.012, 0.009, 0.002, -0.004])


def test_a_power_law_is_recovered_and_lies_in_its_band():
  found = power_law.fit(X, 40 * X**-0.12 * np.exp(NOISE), resamples=200)
  assert found.b == pytest.approx(0.12, abs=0.004) and not found.has_floor
  assert found.low[1] < 0.12 < found.high[1]
  assert found.low[0] < 40 < found.high[0]
  low, high = found.band([1e16])
  assert low[0] < 40 * 1e16**-0.12 < high[0]


def test_a_floor_is_recovered_where_the_points_show_one():
  found = power_law.fit(X, 2e4 * X**-0.35 + 0.5, resamples=20)
  assert found.has_floor
  assert (found.b, found.c) == pytest.approx((0.35, 0.5), rel=1e-3)


def test_four_scattered_points_show_no_floor():
  found = power_law.fit(X[:4], 40 * X[:4] ** -0.12 * np.exp(NOISE[:4]), resamples=20)
  assert found.c == 0 and found.floor_p > power_law.FLOOR_P


@pytest.mark.parametrize("y", [[1.0, 0.5, 0.0], [1.0, 0.5]])
def test_what_no_law_can_go_through_is_refused(y):
  with pytest.raises(ValueError, match="power law needs"):
    power_law.fit(X[: len(y)], y)
