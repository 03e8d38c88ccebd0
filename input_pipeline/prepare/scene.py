"""Rendered scenes: a few objects on a background, each with a known outline.

An object has a shape, a colour, a texture and a size class; houses, trees and cars
also have named parts. No two objects of a scene agree in all four, and none overlap, so
every phrase about the scene has one true meaning. Units: pixels of the stored image,
(x, y).
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

COLOURS = {
  "red": (208, 36, 36),
  "yellow": (246, 218, 52),
  "green": (44, 158, 62),
  "blue": (40, 86, 214),
  "purple": (132, 52, 176),
  "white": (244, 244, 240),
}
TEXTURES = ("plain", "striped", "dotted")
# Radius of the enclosing circle as a share of the shorter image side.
SIZES = {"small": (0.14, 0.155), "big": (0.235, 0.255)}
MAX_BIG = 2  # more would leave no room for four objects
SHAPES = ("circle", "square", "triangle", "house", "tree", "car")
PARTS = {
  "house": ("roof", "wall"),
  "tree": ("crown", "trunk"),
  "car": ("body", "wheels"),
}
IMAGE_SIZES = ((128, 128), (128, 128), (128, 112), (112, 128))  # (height, width)
PHOTOGRAPHS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "rocket")
SUPERSAMPLE = 2


@dataclasses.dataclass(frozen=True)
class SceneObject:
  """One object. `parts` maps a part's name to its polygons [(x, y), ...]."""

  shape: str
  colour: str
  texture: str
  size: str
  centre: tuple[float, float]
  radius: float
  parts: dict[str, list[np.ndarray]]

  @property
  def label(self):
    texture = "" if self.texture == "plain" else self.texture + " "
    return f"{self.size} {texture}{self.colour} {self.shape}"

  @property
  def polygons(self):
    return [polygon for part in self.parts.values() for polygon in part]


@dataclasses.dataclass(frozen=True)
class Scene:
  """A background choice and its objects, ordered from left to right."""

  height: int
  width: int
  objects: tuple[SceneObject, ...]


def sample_scene(rng):
  """Draws a scene of up to 5 objects in which colours and shapes repeat."""
  height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
  count = int(rng.integers(4, 6))
  colours = rng.choice(list(COLOURS), size=3, replace=False)
  shapes = rng.choice(SHAPES, size=3, replace=False)
  textures = ("plain", str(rng.choice(TEXTURES[1:])))
  combos = [
    (s, c, t, z) for s in shapes for c in colours for t in textures for z in SIZES
  ]
  drawn = [combos[i] for i in rng.permutation(len(combos))[: 2 * count]]
  big = [combo for combo in drawn if combo[3] == "big"][:MAX_BIG]
  small = [combo for combo in drawn if combo[3] == "small"]
  objects = []
  for combo in big + small:  # the big ones first, while there is room
    placed = _place(rng, height, width, objects, str(combo[3]))
    if placed:
      shape, colour, texture, size = map(str, combo)
      centre, radius = placed
      objects.append(
        SceneObject(
          shape=shape,
          colour=colour,
          texture=texture,
          size=size,
          centre=centre,
          radius=radius,
          parts=_outline(shape, centre, radius),
        )
      )
    if len(objects) == count:
      break
  objects.sort(key=lambda o: o.centre[0])
  return Scene(height=height, width=width, objects=tuple(objects))


def _place(rng, height, width, objects, size, attempts=60):
  """A centre and radius clear of every object placed so far, or None."""
  for _ in range(attempts):
    radius = rng.uniform(*SIZES[size]) * min(height, width)
    x = rng.uniform(radius + 2, width - radius - 2)
    y = rng.uniform(radius + 2, height - radius - 2)
    gaps = [math.dist((x, y), o.centre) - radius - o.radius for o in objects]
    if all(gap > 2 for gap in gaps):
      return (x, y), radius
  return None


def _outline(shape, centre, radius):
  """Polygons of each part; a plain shape is its own single part."""
  unit = _UNIT_OUTLINES[shape]()
  centre = np.asarray(centre)
  return {
    name: [np.asarray(p, float) * radius + centre for p in polygons]
    for name, polygons in unit.items()
  }


def _regular(count, radius=1.0, phase=-90.0):
  angles = np.deg2rad(phase + 360 / count * np.arange(count))
  return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _box(x0, y0, x1, y1):
  return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ellipse(x, y, rx, ry, count=16):
  return _regular(count) * (rx, ry) + (x, y)


# Unit outlines fit the unit circle; y points down, as in the image.
_UNIT_OUTLINES = {
  "circle": lambda: {"circle": [_ellipse(0, 0, 0.92, 0.92, count=24)]},
  "square": lambda: {"square": [_box(-0.7, -0.7, 0.7, 0.7)]},
  "triangle": lambda: {"triangle": [_regular(3)]},
  "house": lambda: {
    "roof": [[(-0.85, -0.1), (0, -0.95), (0.85, -0.1)]],
    "wall": [_box(-0.62, -0.08, 0.62, 0.78)],
  },
  "tree": lambda: {
    "crown": [_ellipse(0, -0.35, 0.75, 0.62)],
    "trunk": [_box(-0.2, 0.29, 0.2, 0.97)],
  },
  "car": lambda: {
    "body": [
      [
        (-0.95, 0.3),
        (-0.95, -0.1),
        (-0.5, -0.15),
        (-0.3, -0.6),
        (0.35, -0.6),
        (0.55, -0.15),
        (0.95, -0.1),
        (0.95, 0.3),
      ]
    ],
    "wheels": [_ellipse(-0.52, 0.54, 0.24, 0.22), _ellipse(0.52, 0.54, 0.24, 0.22)],
  },
}
_DARK_PARTS = {"roof", "trunk", "wheels"}  # drawn in a darker shade of the colour


def render(scene, rng):
  """Draws the scene. Returns uint8 RGB [height, width, 3]."""
  k = SUPERSAMPLE
  canvas = _background(scene.height, scene.width, rng)
  canvas = cv2.resize(
    canvas, (scene.width * k, scene.height * k), interpolation=cv2.INTER_LINEAR
  ).astype(np.float32)
  for item in scene.objects:
    _draw(canvas, item, rng)
  image = cv2.resize(canvas, (scene.width, scene.height), interpolation=cv2.INTER_AREA)
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _draw(canvas, item, rng):
  """Paints one object onto the supersampled canvas, in place, and outlines it."""
  k = SUPERSAMPLE
  x, y = np.multiply(item.centre, k)
  reach = int(item.radius * k) + 3
  top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
  patch = canvas[top : int(y) + reach, left : int(x) + reach]
  base = np.clip(np.array(COLOURS[item.colour]) + rng.normal(0, 6, 3), 0, 255)
  weave = _texture(item.texture, patch.shape[:2], item.radius * k)
  for name, polygons in item.parts.items():
    shade = 0.62 if name in _DARK_PARTS else 1.0
    points = [np.rint(p * k - (left, top)).astype(np.int32) for p in polygons]
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, points, 1)
    colour = base * shade * (1 - weave) + _accent(base) * weave
    patch[mask > 0] = colour[mask > 0]
    cv2.polylines(patch, points, True, (base * 0.35).tolist(), 1, cv2.LINE_AA)


def _accent(base):
  """The second colour of a texture: dark on light colours, light on dark ones."""
  return base * 0.65 if base.mean() > 150 else base * 0.6 + 255 * 0.4


def _texture(kind, shape, radius):
  """How much of the accent colour each pixel takes, [H, W, 1] of 0 or 1."""
  rows, cols = np.mgrid[: shape[0], : shape[1]]
  period = max(radius / 2.2, 7.0)
  if kind == "striped":
    weave = ((rows + cols) % period) < 0.4 * period
  elif kind == "dotted":
    dy, dx = (np.abs(v % period - period / 2) for v in (rows, cols))
    weave = np.hypot(dy, dx) < 0.32 * period
  else:
    weave = np.zeros(shape, bool)
  return weave[..., None].astype(np.float32)


@functools.cache
def _photograph(name):
  import skimage.data

  return getattr(skimage.data, name)()


def _background(height, width, rng):
  """A flat tone, a gradient or a softened crop of a photograph, uint8 RGB."""
  kind = rng.random()
  if kind < 0.25:
    return np.full((height, width, 3), rng.uniform(60, 190, 3), np.float32).astype(
      np.uint8
    )
  if kind < 0.5:
    ends = rng.uniform(50, 200, (2, 1, 1, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    image = ends[0] * (1 - ramp) + ends[1] * ramp
    return np.broadcast_to(image, (height, width, 3)).astype(np.uint8)
  return _photo_crop(height, width, rng)


def _photo_crop(height, width, rng):
  photo = _photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
  if photo.ndim == 2:
    photo = np.repeat(photo[..., None], 3, axis=2)
  side = int(rng.uniform(0.4, 0.9) * min(photo.shape[:2]))
  top = rng.integers(photo.shape[0] - side + 1)
  left = rng.integers(photo.shape[1] - side + 1)
  crop = np.ascontiguousarray(photo[top : top + side, left : left + side, :3])
  crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
  # Softened: the photograph gives clutter without hiding what the talk is about.
  grey = crop.mean(axis=2, keepdims=True)
  return (0.5 * (0.5 * crop + 0.5 * grey) + 0.5 * 118).astype(np.uint8)
