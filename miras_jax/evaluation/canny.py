"""Canny edges of a mask, worked out near its outline only, equal to scikit-image's.

Away from the outline a smoothed mask is constant, its gradient zero, and no edge can
lie there. Whether one of two neighbours is the larger often hangs on the last bit, so
every sum here is added in the order in which SciPy adds it: the edges are those of
`skimage.feature.canny(mask, sigma=1, low_threshold=0.1, high_threshold=0.3)`.

H W the image, h w a box of it, N places of interest; `p` ends names of padded arrays.
"""

import functools

import cv2
import numpy as np

RADIUS = 4  # pixels that the Gaussian of sigma 1 reaches, cut at 4 sigma
MARGIN = RADIUS + 2  # from the mask to the last pixel whose smoothed value is read
LEAST = 2 * RADIUS + 1  # sides of an image below this are left to scikit-image
STRIP = 2**16  # pixels that are worked on at a time: they stay in the cache
LOW, HIGH = 0.1, 0.3  # thresholds of the gradient, as published
_SQUARE = np.ones((3, 3), np.uint8)
_NEAR = np.ones((LEAST, LEAST), np.uint8)


def edge_places(mask_hw, corner, image_hw, scale) -> np.ndarray:
  """Sorted places row * W + column of the edge pixels of a mask.

  Args:
    mask_hw: 0 or 1, uint8: a box of the image outside of which the mask is empty.
    corner: (row, column) of the box in the image.
    image_hw: sizes of the image.
    scale: what a 1 is worth: 1 for a boolean mask; 255 of uint8 are worth 1.
  """
  if min(image_hw) < LEAST:
    return _by_skimage(mask_hw, corner, image_hw, scale)
  box_hw, (top, left) = _with_margin(mask_hw, corner, image_hw)
  rows = max(1, STRIP // box_hw.shape[1])
  strips = [
    _edges_of_rows(box_hw, row, row + rows, (top, left), image_hw, scale)
    for row in range(0, len(box_hw), rows)
  ]
  at_N, strong_N = (np.concatenate(parts) for parts in zip(*strips, strict=True))
  return _connected(at_N, strong_N, image_hw[1])


def _edges_of_rows(box_hw, start, stop, corner, image_hw, scale):
  """(places in the image, which are strong) of thin edges in rows of the box."""
  above = max(0, start - MARGIN)
  box_hw, top = box_hw[above : stop + MARGIN], corner[0] + above
  if (found := _read_places(box_hw)) is None:
    return np.zeros(0, np.int64), np.zeros(0, bool)
  corner = top, corner[1]
  smooth_p = _smooth(box_hw, found[1], corner, image_hw, scale)
  magnitude_p, candidates = _gradient(smooth_p, found[0], corner, image_hw, scale)
  at_N, strong_N = _thin(magnitude_p, *candidates, HIGH * scale)
  rows_N, columns_N = np.divmod(at_N, magnitude_p.shape[1])
  rows_N += above - 1
  own_N = (rows_N >= start) & (rows_N < stop)
  at_N = (rows_N + (top - above)) * image_hw[1] + columns_N + (corner[1] - 1)
  return at_N[own_N], strong_N[own_N]


def _by_skimage(mask_hw, corner, image_hw, scale):
  from skimage.feature import canny

  full = np.zeros(image_hw, bool if scale == 1 else np.uint8)
  rows, columns = (slice(a, a + n) for a, n in zip(corner, mask_hw.shape, strict=True))
  full[rows, columns] = mask_hw
  edges = canny(full, sigma=1, low_threshold=LOW, high_threshold=HIGH)
  return np.flatnonzero(edges)


def _with_margin(mask_hw, corner, image_hw):
  """(mask with MARGIN around it as far as the image goes, corner of that box)."""
  before = [min(MARGIN, at) for at in corner]
  sizes = zip(corner, mask_hw.shape, image_hw, strict=True)
  after = [min(MARGIN, whole - at - size) for at, size, whole in sizes]
  box = np.pad(mask_hw, list(zip(before, after, strict=True)))
  return box, tuple(at - n for at, n in zip(corner, before, strict=True))


def _read_places(box_hw):
  """Places in the box (where the gradient may differ from zero, whose smoothed values
  it reads), or None where there are none."""
  outline = cv2.dilate(box_hw, _SQUARE) != cv2.erode(box_hw, _SQUARE)
  sloped = cv2.dilate(outline.view(np.uint8), _NEAR)
  sloped_N = np.flatnonzero(sloped.view(bool))
  if not len(sloped_N):
    return None
  return sloped_N, np.flatnonzero(cv2.dilate(sloped, _SQUARE).view(bool))


def _smooth(box_hw, read_N, corner, image_hw, scale):
  """Smoothed mask at the places `read_N`, in an array with a ring around the box."""
  height, width = box_hw.shape
  rows_N, columns_N = np.divmod(read_N, width)
  smooth_N = _across(_column_codes(box_hw), rows_N, columns_N, scale)
  smooth_N /= _share(rows_N + corner[0], columns_N + corner[1], image_hw)
  smooth_p = np.empty((height + 2, width + 2))
  smooth_p.reshape(-1)[_ringed(rows_N, columns_N, width)] = smooth_N
  # The image goes on as in a mirror that holds its last row.
  smooth_p[0], smooth_p[-1] = smooth_p[1], smooth_p[-2]
  smooth_p[:, 0], smooth_p[:, -1] = smooth_p[:, 1], smooth_p[:, -2]
  return smooth_p


def _ringed(rows_N, columns_N, width):
  return (rows_N + 1) * (width + 2) + columns_N + 1


def _column_codes(box_hw):
  """For each pixel the LEAST pixels of its column around it, as bits; RADIUS columns
  of zeros at either side."""
  padded = np.pad(box_hw, RADIUS).astype(np.uint16)
  two = padded[:-1] | padded[1:] << 1
  four = two[:-2] | two[2:] << 2
  eight = four[:-4] | four[4:] << 4
  return eight[:-1] | padded[8:] << 8


def _across(codes_hw, rows_N, columns_N, scale):
  """Both passes of the Gaussian: down the column by table, then along the row."""
  table, weights = _column_table(scale), _weights()
  flat, at_N = codes_hw.reshape(-1), rows_N * codes_hw.shape[1] + columns_N
  taps = [table[flat[k:][at_N]] for k in range(LEAST)]
  return _weighted(taps, weights)


def _weighted(taps, weights):
  """Sum of taps from -RADIUS to RADIUS in SciPy's order: centre, then outside in."""
  total = taps[RADIUS] * weights[0]
  for k in range(RADIUS, 0, -1):
    total += (taps[RADIUS - k] + taps[RADIUS + k]) * weights[k]
  return total


@functools.cache
def _weights():
  """Weights of the Gaussian at distances 0 to RADIUS."""
  weights = np.exp(-0.5 * np.arange(-RADIUS, RADIUS + 1) ** 2)
  return (weights / weights.sum())[RADIUS:]


@functools.cache
def _column_table(scale):
  """The first pass for each code of `_column_codes`."""
  bits = np.arange(2**LEAST)[:, None] >> np.arange(LEAST) & 1
  return _weighted(list((bits * scale).T.astype(float)), _weights())


def _share(rows_N, columns_N, image_hw):
  """How much of the Gaussian lies in the image, around each place."""
  table = _share_table()
  at_row, at_column = (
    _from_border(at, size)
    for at, size in zip((rows_N, columns_N), image_hw, strict=True)
  )
  if at_row is at_column is None:
    return table[RADIUS, RADIUS]
  middle = np.int64(RADIUS)
  row = middle if at_row is None else at_row
  return table[row, middle if at_column is None else at_column]


def _from_border(at_N, size):
  """Row of `_share_table` of places along one side; None where all are the middle."""
  if at_N.min() >= RADIUS and at_N.max() < size - RADIUS:
    return None
  return np.minimum(at_N, RADIUS) + np.maximum(at_N - (size - 1 - RADIUS), 0)


@functools.cache
def _share_table():
  rows, columns = np.divmod(np.arange(LEAST**2), LEAST)
  codes = _column_codes(np.ones((LEAST, LEAST), np.uint8))
  share = _across(codes, rows, columns, 1.0) + np.finfo(float).eps
  return share.reshape(LEAST, LEAST)


def _gradient(smooth_p, sloped_N, corner, image_hw, scale):
  """Magnitude of Sobel's gradient, zero where it is not asked for, and the candidates:
  (places in the ringed array, gradient down, gradient across, magnitude)."""
  width = smooth_p.shape[1]
  rows_N, columns_N = np.divmod(sloped_N, width - 2)
  at_N = _ringed(rows_N, columns_N, width - 2)
  flat, first_N = smooth_p.reshape(-1), at_N - (width + 1)
  steps = [row * width + column for row in range(3) for column in range(3)]
  a, b, c, d, _, f, g, h, i = (flat[step:][first_N] for step in steps)
  down_N = (h - b) * 2 + ((g - a) + (i - c))
  across_N = (f - d) * 2 + ((c - a) + (i - g))
  magnitude_N = np.sqrt(down_N * down_N + across_N * across_N)
  magnitude_p = np.zeros(smooth_p.shape)
  magnitude_p.reshape(-1)[at_N] = magnitude_N
  fits_N = magnitude_N >= np.float32(LOW * scale)  # scikit-image keeps it as a float
  for at, start, size in zip((rows_N, columns_N), corner, image_hw, strict=True):
    fits_N &= (at > -start) & (at < size - 1 - start)  # never on the image's border
  chosen = (x[fits_N] for x in (at_N, down_N, across_N, magnitude_N))
  return magnitude_p, tuple(chosen)


def _thin(magnitude_p, at_N, down_N, across_N, magnitude_N, high):
  """Candidates that no neighbour along the gradient, interpolated, exceeds; and which
  of them reach `high`."""
  flat, width = magnitude_p.reshape(-1), magnitude_p.shape[1]
  alike_N = (down_N <= 0) == (across_N <= 0)
  down_N, across_N = np.abs(down_N), np.abs(across_N)
  steep_N = np.where(alike_N, down_N > across_N, down_N >= across_N)
  weight_N = np.where(steep_N, across_N, down_N) / np.where(steep_N, down_N, across_N)
  slant_N = np.where(alike_N, width + 1, 1 - width)
  straight_N = np.where(steep_N, slant_N - 1, 1)
  kept_N = np.ones(len(at_N), bool)
  for side in (1, -1):
    near = flat[at_N + side * slant_N] * weight_N
    near += flat[at_N + side * straight_N] * (1.0 - weight_N)
    kept_N &= near <= magnitude_N
  return at_N[kept_N], magnitude_N[kept_N] >= high


def _connected(at_N, strong_N, width):
  """Places that are strong or hang together with one that is, diagonals included."""
  if strong_N.all():
    return at_N
  rows_N, columns_N = np.divmod(at_N, width)
  rows_N, columns_N = rows_N - rows_N.min(), columns_N - columns_N.min()
  thin = np.zeros((rows_N.max() + 1, columns_N.max() + 1), np.uint8)
  thin[rows_N, columns_N] = 1
  _, labels = cv2.connectedComponents(thin, connectivity=8)
  label_N = labels[rows_N, columns_N]
  return at_N[np.isin(label_N, label_N[strong_N])]
