"""y = a * F^-b + c through measured points, with 95 % bands by bootstrap.

Errors are taken as relative: the sum of squares is of log y. The floor c stays 0 unless
an F test against the fit without it says p < 0.05: a few points on a short range of F
cannot tell a floor from a smaller exponent.

Bands: residuals are drawn again (with replacement, inflated for the fitted parameters)
around the fitted curve, and the curve is fitted to each such set. So few points know
their own scatter badly; each set's scatter is therefore drawn too, from the chi-square
law it has, which for b without a floor makes the band that of Student's t.

N points, R resamples, G points of a curve.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
FLOOR_P = 0.05  # an F test below it keeps the floor


class Fit(NamedTuple):
  """y = a F^-b + c. `low`, `high`: 95 % bands of a, b, c. `curves_RPL` is the sample of
  (a, b, c) they are from."""

  a: float
  b: float
  c: float
  has_floor: bool
  low: tuple[float, float, float]
  high: tuple[float, float, float]
  r2: float  # of log y
  samples_R3: np.ndarray
  floor_p: float | None  # of the F test; None: too few points for one

  def __call__(self, x_G):
    return predict((self.a, self.b, self.c), np.asarray(x_G, float))

  def band(self, x_G):
    """(low, high) of the curve at each of x_G."""
    x_G = np.asarray(x_G, float)
    curves_RG = np.stack([predict(p, x_G) for p in self.samples_R3])
    tail = 100 * (1 - LEVEL) / 2
    return tuple(np.percentile(curves_RG, [tail, 100 - tail], axis=0))


def predict(params, x_G):
  a, b, c = params
  return a * x_G**-b + c


def fit(x_N, y_N, *, resamples=1000, seed=0):
  """Fit of at least three points with y > 0. Raises ValueError."""
  x_N, y_N = np.asarray(x_N, float), np.asarray(y_N, float)
  if len(x_N) < 3 or len(set(x_N)) < 3:
    raise ValueError(f"a power law needs three points, not {len(x_N)}")
  if not (np.isfinite(y_N).all() and (y_N > 0).all() and (x_N > 0).all()):
    raise ValueError(f"a power law needs positive numbers: {x_N=} {y_N=}")
  params, has_floor, floor_p = _choose(x_N, y_N)
  fitted_N = predict(params, x_N)
  residuals_N = np.log(y_N) - np.log(fitted_N)
  solve = _with_floor if has_floor else _straight
  samples_R3 = np.array([
    solve(x_N, fitted_N * np.exp(noise_N))
    for noise_N in _noise(residuals_N, 2 + has_floor, resamples, seed)
  ])  # fmt: skip
  tail = 100 * (1 - LEVEL) / 2
  low, high = np.percentile(samples_R3, [tail, 100 - tail], axis=0)
  spread = np.sum((np.log(y_N) - np.log(y_N).mean()) ** 2)
  return Fit(
    *params,
    has_floor=has_floor,
    low=tuple(low.tolist()),
    high=tuple(high.tolist()),
    r2=float(1 - np.sum(residuals_N**2) / spread) if spread > 0 else 1.0,
    samples_R3=samples_R3,
    floor_p=floor_p,
  )


def _choose(x_N, y_N):
  """(parameters, whether with a floor, p of the F test or None)."""
  straight = _straight(x_N, y_N)
  free = len(x_N) - 3
  if free < 1:
    return straight, False, None
  bent = _with_floor(x_N, y_N)
  rss = [np.sum((np.log(y_N) - np.log(predict(p, x_N))) ** 2) for p in (straight, bent)]
  # Rounding alone must not make a floor of points that lie on a line.
  gain = max(rss[0] - rss[1], 0.0) / (rss[1] / free + 1e-20)
  p = float(stats.f.sf(gain, 1, free))
  keep = p < FLOOR_P and bent[2] > 0
  return (bent if keep else straight), bool(keep), p


def _straight(x_N, y_N):
  """Least squares of log y on log F."""
  slope, level = np.polyfit(np.log(x_N), np.log(y_N), 1)
  return float(np.exp(level)), float(-slope), 0.0


def _with_floor(x_N, y_N):
  """The best c in [0, min y), and a, b for it; a and c from one search over (b, c)."""
  middle = np.exp(np.log(x_N).mean())  # keeps the parameters near 1
  u_N, log_y_N = x_N / middle, np.log(y_N)

  def residuals(theta):
    level, b, share = theta
    return np.log(np.exp(level) * u_N**-b + share * y_N.min()) - log_y_N

  best = None
  for share in (0.0, 0.5, 0.9):
    rest_N = y_N - share * y_N.min()
    _, b, _ = _straight(u_N, rest_N)
    start = (np.log(rest_N).mean(), np.clip(b, 0.01, 9.9), share)
    bounds = ([-np.inf, 0.0, 0.0], [np.inf, 10.0, 0.999])
    found = optimize.least_squares(residuals, start, bounds=bounds)
    if best is None or found.cost < best.cost:
      best = found
  level, b, share = best.x
  return float(np.exp(level) * middle**b), float(b), float(share * y_N.min())


def _noise(residuals_N, fitted, resamples, seed):
  """Yields R sets of residuals, [N]."""
  rng = np.random.default_rng(seed)
  count = len(residuals_N)
  free = max(count - fitted, 1)
  centred_N = (residuals_N - residuals_N.mean()) * np.sqrt(count / free)
  for _ in range(resamples):
    scale = np.sqrt(free / rng.chisquare(free))
    yield scale * rng.choice(centred_N, count)
