"""What the doors of annotation tools share: one question about an image that comes with
each request, whose encoding is kept for the next click.

H W image rows and columns.
"""

import collections
import contextlib
import hashlib
import threading

import cv2
import numpy as np

from miras_jax.serving import asking
from miras_jax.serving.asking import Service
from miras_jax.serving.messages import Say
from miras_jax.serving.talks import Talk, Turn

POINTED = "Segment what I point at."
MOST = 16  # pictures


class Pictures:
  """Idle conversations by the content of their image."""

  def __init__(self):
    self._idle, self._lock = collections.OrderedDict(), threading.Lock()

  @contextlib.asynccontextmanager
  async def talk(self, service: Service, image: bytes):
    """A conversation without turns about an image, nobody else's meanwhile."""
    key = hashlib.sha256(image).digest()
    with self._lock:
      talk = self._idle.pop(key, None)
    talk = talk or await service.new_talk(image)
    try:
      yield talk
    finally:
      talk.reset()
      with self._lock:
        self._idle[key] = talk
        while len(self._idle) > MOST:
          service.engine.forget(self._idle.popitem(last=False)[1])


async def ask(app, image: bytes, request=None, **say) -> tuple[Talk, Turn]:
  """Answers one question about an image. Raises UserError, Refusal."""
  service = app.state.service
  left = request.is_disconnected if request else None
  async with app.state.pictures.talk(service, image) as talk:
    return talk, await asking.answer(service, talk, Say(**say), left)


def inside(points_N2, size) -> list[tuple[float, float]]:
  """Points moved into an image of (height, width)."""
  height, width = size
  clipped = np.clip(np.asarray(points_N2, float).reshape(-1, 2), 0, [width, height])
  return [(float(x), float(y)) for x, y in clipped]


def polygons(mask_HW, fineness=0.0) -> list[list[list[float]]]:
  """Outer outlines of a mask, simplified by `fineness` of their length."""
  found, _ = cv2.findContours(
    mask_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
  )
  fine = [
    cv2.approxPolyDP(outline, fineness * cv2.arcLength(outline, True), True)
    for outline in found
  ]
  return [outline[:, 0].astype(float).tolist() for outline in fine if len(outline) > 2]
