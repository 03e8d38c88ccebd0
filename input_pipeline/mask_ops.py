"""Masks: one rasteriser for every source, and COCO run-length encoding.

The raster rule is the published one: points are truncated toward zero, the closed
outline of thickness 1 and the even-odd fill are both drawn. Suffixes: H W mask size.
"""

import cv2
import numpy as np

from input_pipeline.image_headers import MAX_PIXELS

MAX_COORDINATE = 1e6  # pixels; far outside any image, far inside the rasteriser's int32
MAX_MASK_PIXELS = MAX_PIXELS
MAX_WORK = 3e9  # of `raster_work`, a second or two; real annotations take 1e5
_IGNORE = 255


def rasterise_polygons(polygons, height, width):
  """Union of polygons, each a sequence of (x, y) in pixels -> mask_HW uint8 of 0 or 1.

  Raises ValueError for a coordinate that is not finite or past MAX_COORDINATE, and for
  outlines that would take longer than MAX_WORK.
  """
  check_work(raster_work(polygons, height, width))
  mask_HW = np.zeros((height, width), np.uint8)
  for polygon in polygons:
    draw(mask_HW, polygon, 1)
  return mask_HW


def rasterise_shapes(shapes, height, width, *, published=False):
  """Union of labelme shapes, (shape_type, points) pairs -> mask_HW uint8 of 0 or 1.

  # differs from reference: a rectangle or circle stored as two points is drawn as
  what it is; `published=True` draws the line the published code makes of it.
  """
  if published:
    return rasterise_polygons([points for _, points in shapes], height, width)
  outlines = [outline(kind, points) for kind, points in shapes]
  return rasterise_polygons(outlines, height, width)


def raster_work(polygons, height, width) -> float:
  """About how many elementary steps `rasterise_polygons` takes.

  The fill sorts the edges of each row, also of rows above the image; so a zig-zag costs
  the square of the edges that a row meets. To that add pixels of outline and filling.
  """
  work = 0.0
  for polygon in polygons:
    points = _checked_points(polygon)
    if len(points):
      work += _sorting_work(points[:, 1], height) + _pixel_work(points, height, width)
  return work


def _sorting_work(y_N, height):
  """Sum over the rows of the squared number of edges that a row meets."""
  y_N = np.minimum(y_N, height)
  ends_2N = np.sort([y_N, np.roll(y_N, -1)], axis=0)
  at_E = ends_2N.reshape(-1)
  order_E = np.argsort(at_E, kind="stable")
  steps_E = np.repeat([1.0, -1.0], len(y_N))[order_E]
  rows_E = np.diff(at_E[order_E], append=at_E.max())
  return float((np.cumsum(steps_E) ** 2 * rows_E).sum())


def _pixel_work(points_N2, height, width):
  """Pixels of the outline inside the image, and a tenth of those of its box."""
  inside_N2 = np.clip(points_N2, 0, [width, height])
  length_N = np.abs(np.diff(inside_N2, axis=0, append=inside_N2[:1])).max(axis=1)
  return float(length_N.sum() + np.ptp(inside_N2, axis=0).prod() / 10)


def check_work(work, of="the mask") -> None:
  """Raises ValueError where `raster_work` is past MAX_WORK; `of` says what is drawn."""
  if not work <= MAX_WORK:
    raise ValueError(
      f"{of} would take too long to draw: {work:.0e} steps, the limit is {MAX_WORK:.0e}"
      " (outlines that cross themselves thousands of times, or too many masks)"
    )


def rasterise_reasonseg(shapes, height, width):
  """ReasonSeg's rule for (label, points) pairs -> mask_HW uint8 of 0, 1 or 255.

  Drawn from the largest to the smallest area, "flag" skipped, a label that contains
  "ignore" drawn as 255.
  """
  kept = [(label, points) for label, points in shapes if label.lower() != "flag"]
  areas = [int(rasterise_polygons([p], height, width).sum()) for _, p in kept]
  mask_HW = np.zeros((height, width), np.uint8)
  for i in np.argsort(areas)[::-1]:
    label, points = kept[i]
    draw(mask_HW, points, _IGNORE if "ignore" in label.lower() else 1)
  return mask_HW


def outline(kind, points):
  """The polygon (N, 2) of a labelme shape that is filled."""
  points = np.asarray(points, np.float64).reshape(-1, 2)
  if kind == "rectangle" and len(points) == 2:
    (x0, y0), (x1, y1) = points
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
  if kind == "circle" and len(points) == 2:
    radius = np.linalg.norm(points[1] - points[0])
    count = int(np.clip(np.ceil(2 * np.pi * radius), 16, 720))
    angle = np.arange(count) * (2 * np.pi / count)
    # Rounded to pixel centres first, because the raster rule truncates.
    circle = points[0] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.rint(circle)
  return points


def is_degenerate(polygon):
  """True when the polygon encloses nothing: under three points, or all on one line."""
  points = np.asarray(polygon, np.float64).reshape(-1, 2)
  if len(points) < 3:
    return True
  offset = points - points[0]
  far = offset[np.argmax(np.abs(offset).sum(axis=1))]
  cross = offset[:, 0] * far[1] - offset[:, 1] * far[0]
  return bool(np.abs(cross).max() <= 1e-9 * max(float(far @ far), 1e-12))


def draw(mask_HW, polygon, value):
  """Sets the pixels of one polygon by the raster rule, without a check of the work."""
  points = _checked_points(polygon)
  if not len(points):
    return
  points = np.trunc(points).astype(np.int32)
  cv2.polylines(mask_HW, [points], True, value, 1)
  cv2.fillPoly(mask_HW, [points], value)


def _checked_points(polygon):
  points = np.asarray(polygon, np.float64).reshape(-1, 2)
  if not np.isfinite(points).all() or np.abs(points).max(initial=0) > MAX_COORDINATE:
    raise ValueError(f"a coordinate is not finite or past {MAX_COORDINATE:g} pixels")
  return points


def encode_rle(mask_HW):
  """mask_HW of bool or 0/1 -> COCO RLE {"size": [height, width], "counts": str}."""
  height, width = np.shape(mask_HW)
  mask_HW = np.asarray(mask_HW) != 0
  columns = np.flatnonzero(mask_HW.any(axis=0))
  first, end = (columns[0], columns[-1] + 1) if len(columns) else (0, 0)
  flat = mask_HW[:, first:end].T.reshape(-1)  # COCO goes down the columns
  edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + first * height
  # The first run is of zeros, be it none; what comes after the last one is of zeros.
  ends = (
    edges if len(edges) and edges[-1] == height * width else [*edges, height * width]
  )
  runs = np.diff(np.concatenate([[0], ends]))
  return {"size": [height, width], "counts": _write_counts(runs)}


def encode_values(map_HW):
  """map_HW uint8 -> {value: COCO RLE of its pixels}, by value.

  Takes one pass over the pixels, however many values there are.
  """
  height, width = np.shape(map_HW)
  flat = cv2.transpose(map_HW).reshape(-1)
  starts_R = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
  ends_R = np.append(starts_R[1:], flat.size)
  values_R = flat[starts_R]
  order_R = np.argsort(values_R, kind="stable")
  cuts = np.flatnonzero(np.diff(values_R[order_R])) + 1
  rles = {}
  for runs in np.split(order_R, cuts):
    edges = np.stack([starts_R[runs], ends_R[runs]], axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0)  # zeros first, then ones, in turn
    if edges[-1] < flat.size:
      counts = np.append(counts, flat.size - edges[-1])
    value = int(values_R[runs[0]])
    rles[value] = {"size": [height, width], "counts": _write_counts(counts)}
  return rles


def empty_rle(height, width):
  """The RLE of a mask without a pixel."""
  return {"size": [height, width], "counts": _write_counts(np.array([height * width]))}


def decode_rle(rle, *, max_pixels=MAX_MASK_PIXELS):
  """COCO RLE (counts str, bytes or list) -> mask_HW uint8 of 0 or 1.

  Raises ValueError for a size past `max_pixels` or runs that do not add up to it:
  checked before anything of that size is allocated.
  """
  height, width, runs = _checked_runs(rle, max_pixels)
  values = np.arange(len(runs), dtype=np.int64) % 2  # runs of 0 and 1 in turn
  mask_WH = np.repeat(values.astype(np.uint8), runs).reshape(width, height)
  return np.ascontiguousarray(mask_WH.T)


def decode_rle_box(rle, *, max_pixels=MAX_MASK_PIXELS):
  """(corner (top, left), mask uint8 of 0 or 1): the smallest box that holds the mask's
  pixels, as `decode_rle` has them; of no pixel where the mask is empty."""
  height, width, runs = _checked_runs(rle, max_pixels)
  ends = np.cumsum(runs)
  first, last = ends[:-1:2], ends[1::2] - 1  # of each run of ones
  inked = last >= first
  first, last = first[inked], last[inked]
  if not len(first):
    return (0, 0), np.zeros((0, 0), np.uint8)
  (left, top_R), (right, bottom_R) = (np.divmod(x, height) for x in (first, last))
  tall = (left < right).any()  # a run that goes on in the next column fills the height
  top, bottom = (0, height - 1) if tall else (top_R.min(), bottom_R.max())
  left, right = int(left[0]), int(right[-1])
  # The gaps before, between and after the runs, within the columns of the box.
  edges = np.stack([first, last + 1], axis=1).reshape(-1) - left * height
  size = (right + 1 - left) * height
  lengths = np.diff(edges, prepend=0, append=size)
  values = np.arange(len(lengths), dtype=np.uint8) % 2
  columns = np.repeat(values, lengths).reshape(right + 1 - left, height)
  return (int(top), left), cv2.transpose(columns[:, top : bottom + 1])


def rle_area(rle, *, max_pixels=MAX_MASK_PIXELS):
  """Number of mask pixels, without decoding."""
  return int(_checked_runs(rle, max_pixels)[2][1::2].sum())


def rle_overlap(first, second, *, max_pixels=MAX_MASK_PIXELS):
  """Pixels that two RLE of one size share, without decoding.

  Raises ValueError where they differ in size.
  """
  height, width, runs = _checked_runs(first, max_pixels)
  *size, others = _checked_runs(second, max_pixels)
  if size != [height, width]:
    raise ValueError(f"RLE of {second['size']} does not lie on {first['size']}")
  ends = np.concatenate([[0], np.cumsum(others)])
  inside = np.arange(len(ends) - 1) % 2
  covered = np.concatenate([[0], np.cumsum(np.diff(ends) * inside)])
  # Pixels of the second before an edge of the first: linear between its own edges.
  at = np.interp(np.concatenate([[0], np.cumsum(runs)]), ends, covered)
  return round(float(np.diff(at)[1::2].sum()))


def _checked_runs(rle, max_pixels):
  """(height, width, run lengths int64), proven to add up to height * width."""
  try:
    height, width = map(int, rle["size"])
    if [height, width] != list(rle["size"]):
      raise ValueError("halves of a pixel, or text")
    counts = rle["counts"]
  except (KeyError, TypeError, ValueError, OverflowError):
    raise ValueError("an RLE needs size [height, width] and counts") from None
  if height < 1 or width < 1 or height * width > max_pixels:
    raise ValueError(f"RLE size {height}x{width} is not within 1 to {max_pixels:,} px")
  runs = _parse_counts(counts, 2 * height * width + 2)
  if len(runs) and runs.min() < 0:
    raise ValueError(f"RLE holds a negative run for {height}x{width}")
  if len(runs) and runs.max() > height * width or runs.sum() != height * width:
    raise ValueError(f"RLE runs do not add up to {height}x{width}")
  return height, width, runs


def _write_counts(runs):
  """The counts string of run lengths, as COCO's own library writes it.

  It packs 5 bits a character, low bits first; 0x20 says that more follow, the top bit
  of the last is the sign; from the fourth run on values are differences to the run two
  before.
  """
  numbers = runs.astype(np.int64)
  numbers[3:] -= runs[1:-2]
  digits, kept = [], []
  more = np.ones(len(numbers), bool)
  while more.any():
    kept.append(more)
    digit, numbers = numbers & 0x1F, numbers >> 5
    more = more & (numbers != np.where(digit & 0x10, -1, 0))
    digits.append(digit + 0x20 * more + 48)
  codes = np.stack(digits, axis=1)[np.stack(kept, axis=1)]
  return codes.astype(np.uint8).tobytes().decode()


def _parse_counts(counts, max_runs):
  """Run lengths of a COCO counts string (or list) as int64.

  See `_write_counts`. Everything is checked here: the counts may come from anywhere.
  """
  if not isinstance(counts, str | bytes):
    if not isinstance(counts, list | tuple | np.ndarray):
      raise ValueError(f"RLE counts are a {type(counts).__name__}")
    if len(counts) > max_runs:
      raise ValueError(f"RLE has {len(counts):,} runs, at most {max_runs:,} make sense")
    return np.array([_bounded(n) for n in counts], np.int64)
  raw = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
  code = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
  if len(code) and (code.min() < 0 or code.max() > 63 or code[-1] & 0x20):
    raise ValueError("RLE counts hold a character outside the encoding")
  last = np.flatnonzero((code & 0x20) == 0)
  first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
  place = np.arange(len(code)) - np.repeat(first, last - first + 1)
  if len(place) and place.max() > 6:
    raise ValueError("RLE counts hold a run of more than 35 bits")
  if not len(last):
    return np.zeros(0, np.int64)
  runs = np.add.reduceat((code & 0x1F) << (5 * place), first)
  negative = (code[last] & 0x10) != 0
  runs = runs - np.where(negative, np.int64(1) << (5 * (last - first + 1)), 0)
  runs[1::2] = np.cumsum(runs[1::2])
  runs[2::2] = np.cumsum(runs[2::2])
  return runs


def _bounded(n):
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or abs(n) > 2**40:
    raise ValueError(f"RLE run {n!r} is not a sensible whole number")
  return int(n)
