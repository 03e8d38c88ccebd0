"""What colour a thing has, where everybody would say the same.

Colours are compared in CIE L*a*b*, where equal distances look about equally different.
N colours or pixels; the last axis is L* (0 to 100), a*, b*.
"""

import cv2
import numpy as np

from input_pipeline.narrate.wordings import COLOURS

# Typical shades in sRGB, darker and lighter ones of a name beside each other.
SHADES = {
  "red": ((200, 30, 35), (140, 20, 30)),
  "orange": ((240, 130, 30),),
  "yellow": ((245, 220, 60), (215, 180, 50)),
  "green": ((50, 150, 70), (30, 85, 50), (110, 125, 60)),
  "blue": ((40, 90, 200), (35, 50, 100), (90, 120, 170), (120, 170, 220)),
  "purple": ((120, 50, 150), (80, 50, 100)),
  "pink": ((240, 150, 180), (225, 80, 140)),
  "brown": ((110, 70, 45), (150, 105, 70), (75, 50, 40)),
  "black": ((22, 22, 24),),
  "grey": ((90, 90, 92), (130, 130, 132), (165, 165, 167)),
  "white": ((245, 245, 243),),
}
HAS = 22.0  # a colour is that of a shade at most so far away ...
CLEARER = 8.0  # ... that no other name's shade is less than this farther away
HAS_NOT = 14.0  # a colour is surely not a name whose shade is so much behind the best
UNIFORM = 0.5  # share of the pixels that have to be near the median ...
NEAR = 22.0  # ... as near as this
MAX_PIXELS = 4_000  # of a thing that are looked at


def to_lab(pixels_N3):
  """sRGB uint8 -> L*a*b* float32."""
  scaled_1N3 = np.asarray(pixels_N3, np.float32).reshape(1, -1, 3) / 255
  return cv2.cvtColor(scaled_1N3, cv2.COLOR_RGB2LAB)[0]


_NAMES = np.array([name for name in COLOURS for _ in SHADES[name]])
_SHADES_N3 = to_lab(np.array([shade for name in COLOURS for shade in SHADES[name]]))


def distances(lab_3) -> dict[str, float]:
  """How far a colour is from the nearest shade of each name."""
  far_N = np.linalg.norm(_SHADES_N3 - lab_3, axis=1)
  return {name: float(far_N[name == _NAMES].min()) for name in COLOURS}


def median_lab(pixels_N3):
  """The median colour of pixels, None where too few of them are near it."""
  step = -(-len(pixels_N3) // MAX_PIXELS)
  lab_N3 = to_lab(pixels_N3[::step])
  median_3 = np.median(lab_N3, axis=0)
  near = np.linalg.norm(lab_N3 - median_3, axis=1) <= NEAR
  return median_3 if near.mean() >= UNIFORM else None


def verdicts(pixels_N3) -> dict[str, bool | None]:
  """Whether pixels have each colour: yes, no, or None where people may disagree."""
  median_3 = median_lab(pixels_N3) if len(pixels_N3) else None
  if median_3 is None:
    return dict.fromkeys(COLOURS)
  far = distances(median_3)
  first, second = sorted(far, key=far.get)[:2]
  sure = far[first] <= HAS and far[second] - far[first] >= CLEARER
  return {
    name: True if sure and name == first
    else False if far[name] - far[first] >= HAS_NOT
    else None
    for name in COLOURS
  }  # fmt: skip
