"""HTTP with a server that is not trusted: answers are bounded in bytes and in time.

openai reads the body of an error, and httpx that of a redirect, to its end, whatever
its length; a header that comes byte by byte passes every time-out of a read.
"""

import socket
import threading
import zlib

import httpx

_CONNECTED = ("connect_tcp.complete", "start_tls.complete")
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # gzip or deflate, as the data say


class BoundedClient(httpx.Client):
  """Reads each answer whole before it is looked at.

  seconds: of a request, from its connection to the last byte of the answer. most: bytes
  of an answer, also when it is unpacked. No redirect is followed: it is an answer like
  others, and the request goes to no server but the one that was named.
  """

  def __init__(self, seconds: float, most: int):
    self._seconds, self._most = seconds, most
    super().__init__(
      timeout=seconds,
      headers={"Accept-Encoding": "identity"},
      # A connection is seen when it is made, so each request has its own.
      limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )

  def send(self, request, **options):
    """As httpx.Client's. Raises httpx.ReadTimeout, ReadError past a limit."""
    connection = _Connection()
    request.extensions = dict(request.extensions) | {"trace": connection.trace}
    timer = threading.Timer(self._seconds, connection.cut)
    timer.daemon = True
    timer.start()
    try:
      response, data = self._ask(request, options)
    except Exception:
      if not connection.is_cut:
        raise
    finally:
      timer.cancel()
    if connection.is_cut:
      said = f"a reply that takes longer than {self._seconds:g} s"
      raise httpx.ReadTimeout(said, request=request)
    return _whole(response, data, request)

  def _ask(self, request, options):
    """(response, its bytes as they are meant)."""
    options = options | {"stream": True, "follow_redirects": False}
    response = super().send(request, **options)
    try:
      packed = self._read(response)
      return response, self._unpacked(packed, response)
    finally:
      response.close()

  def _read(self, response):
    data = bytearray()
    try:
      for block in response.iter_raw():
        data += block
        if len(data) > self._most:
          raise self._too_long(response)
    except httpx.RemoteProtocolError as error:
      said = f"half a reply: {error}"
      raise httpx.ReadError(said, request=response.request) from None
    return bytes(data)

  def _unpacked(self, data, response):
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing == "identity" or not data:
      return data
    try:
      if packing not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error("plain text was asked for")
      unpacked = zlib.decompressobj(_ANY_ZLIB).decompress(data, self._most + 1)
    except zlib.error as error:
      said = f"a reply packed as {packing[:20]!r}: {error}"
      raise httpx.ReadError(said, request=response.request) from None
    if len(unpacked) > self._most:
      raise self._too_long(response)
    return unpacked

  def _too_long(self, response):
    said = f"a reply of more than {self._most:,} bytes"
    return httpx.ReadError(said, request=response.request)


class _Connection:
  """The socket of one request, which another thread may cut."""

  def __init__(self):
    self.is_cut, self._socket, self._lock = False, None, threading.Lock()

  def trace(self, event, info):
    """Takes the socket when httpcore has made it; later ones lie over earlier ones."""
    if event.endswith(_CONNECTED):
      with self._lock:
        self._socket = info["return_value"].get_extra_info("socket")
        if self.is_cut:
          self._shut()

  def cut(self):
    """Whoever reads from it or writes to it goes on with an error, at once."""
    with self._lock:
      self.is_cut = True
      self._shut()

  def _shut(self):
    try:
      # Not close(): its number could be another thread's next socket.
      socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
    except (OSError, TypeError, ValueError):
      pass  # it is closed already, or there is none yet


def _whole(response, data, request):
  """The response with its bytes, which nothing has to be read for any more."""
  framing = ("content-encoding", "content-length", "transfer-encoding")
  headers = [(k, v) for k, v in response.headers.multi_items() if k not in framing]
  return httpx.Response(
    response.status_code, headers=headers, content=data, request=request
  )
