"""How many images a wanted interval or difference needs, from the runs' own spread.

By the normal approximation: what an image adds to a metric has the standard deviation
s (paired.Sums.spread), so that n images give an interval of +- z s / sqrt(n), and a
difference d is found with chance Phi(|d| sqrt(n) / s - z), z the quantile of the level.
Tests here are one at a time: corrected ones need more.
"""

import math
from statistics import NormalDist

from miras_jax.compare.paired import deviation, paired_spread

NORMAL = NormalDist()


def single(run, names, *, level, half_width) -> dict:
  """{metric: numbers} of one run: its interval now, and images for a wanted one."""
  images = len(run.num_GK)
  z = NORMAL.inv_cdf(1 - level / 2)
  return {
    name: {
      "images": images,
      "spread": finite(spread),
      "half_width": finite(z * spread / math.sqrt(images)) if images else None,
      "images_for_interval": _images(z * spread / half_width),
    }
    for name, spread in zip(names, deviation(run.spread()), strict=True)
  }


def pair(a, b, names, *, level, half_width, difference, power) -> dict:
  """{metric: numbers} of two runs, of the difference between them.

  half_width: wanted of its interval. difference: wanted to be found with chance
  `power`; `power` in the result is the chance with the images that there are.
  """
  images = len(a.num_GK)
  z, z_power = NORMAL.inv_cdf(1 - level / 2), NORMAL.inv_cdf(power)
  out = {}
  for name, spread in zip(names, paired_spread(a, b), strict=True):
    error = spread / math.sqrt(images) if images else math.nan
    out[name] = {
      "images": images,
      "spread": finite(spread),
      "half_width": finite(z * error),
      "images_for_interval": _images(z * spread / half_width),
      "images_for_difference": _images((z + z_power) * spread / difference),
      "least_difference": finite((z + z_power) * error) if error else None,
      "power": _chance(difference, error, z),
    }
  return out


def _images(root):
  """Whole images, two at least, of which `root` is the square root; None for 0: where
  no image differs from another, the spread is not known."""
  images = float(root) * float(root)
  return max(2, math.ceil(images)) if math.isfinite(images) and root else None


def _chance(difference, error, z):
  if not math.isfinite(error) or not error:
    return None
  shift = difference / error
  return NORMAL.cdf(shift - z) + NORMAL.cdf(-shift - z)


def finite(x):
  """A float for JSON; None where there is no value."""
  return float(x) if math.isfinite(x) else None
