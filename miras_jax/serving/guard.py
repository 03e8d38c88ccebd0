"""Around every request: how large and slow it may be, what browsers may do with the
response, and that it is counted.
"""

import asyncio
import time

from starlette.exceptions import HTTPException

HEADERS = (
  (
    b"content-security-policy",
    b"default-src 'self'; img-src 'self' blob: data:; object-src 'none';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  ),
  (b"x-content-type-options", b"nosniff"),
  (b"referrer-policy", b"no-referrer"),
  (b"cross-origin-resource-policy", b"same-origin"),
)
BODY_SECONDS = 60.0  # without anything of a body, and more for all of it:
LEAST_RATE = 2**13  # bytes a second


class Guard:
  """ASGI middleware."""

  def __init__(self, app, *, most_bytes, metrics):
    self._app, self._most_bytes, self._metrics = app, most_bytes, metrics

  async def __call__(self, scope, receive, send):
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    started, status = time.monotonic(), 500

    async def answered(message):
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
        message = {**message, "headers": [*message["headers"], *HEADERS]}
      await send(message)

    body = _Body(receive, self._most_bytes, scope["headers"])
    try:
      await self._app(scope, body.receive, answered)
    finally:
      route = getattr(scope.get("route"), "path", "other")
      self._metrics.requests.labels(route, str(status)).inc()
      self._metrics.latency.labels(route).observe(time.monotonic() - started)


class _Body:
  """Counts what is received. Raises HTTPException 413 and 408."""

  def __init__(self, receive, most, headers):
    self._receive, self._most = receive, most
    self._length = next((v for k, v in headers if k == b"content-length"), b"0")
    self._bytes, self._complete = 0, False
    self._began = time.monotonic()

  async def receive(self):
    if self._complete:  # whoever asks now waits for the end of the connection
      return await self._receive()
    if self._length.isdigit() and int(self._length[:18]) > self._most:
      raise self._too_large()
    allowed = BODY_SECONDS + self._bytes / LEAST_RATE
    left = self._began + allowed - time.monotonic()
    try:
      message = await asyncio.wait_for(self._receive(), min(left, BODY_SECONDS))
    except TimeoutError:
      raise HTTPException(408, "the body of the request came too slowly") from None
    self._bytes += len(message.get("body", b""))
    if self._bytes > self._most:
      raise self._too_large()
    self._complete = not message.get("more_body", False)
    return message

  def _too_large(self):
    most = self._most / 2**20
    return HTTPException(413, f"a request has at most {most:.0f} MB; send less")
