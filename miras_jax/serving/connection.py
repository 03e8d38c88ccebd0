"""A connection to a client, that may not be held for nothing.

uvicorn waits without end for the head of a request, and for a client that does not read
its answer. Some hundred such connections would keep everybody else out: of those that
wait for a head the oldest give way to new ones, and none waits long.
"""

import collections

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0  # from the first byte of a head, or from the connection, to its end
READ_SECONDS = 60.0  # that a client may leave what is sent to it unread
MOST_WAITING = 400  # connections without a request

_waiting = collections.OrderedDict()  # connections, the oldest first


class Connection(H11Protocol):
  """HTTP/1.1 by h11, with an end to waiting."""

  _head_timer = _read_timer = None

  def connection_made(self, transport):
    super().connection_made(transport)
    self._wait_for_head()
    _waiting[self] = None
    while len(_waiting) > MOST_WAITING:
      _waiting.popitem(last=False)[0].transport.abort()

  def data_received(self, data):
    super().data_received(data)
    if self.conn.their_state is h11.IDLE:
      self._wait_for_head()
      return
    self._head_timer = _cancelled(self._head_timer)
    _waiting.pop(self, None)

  def on_response_complete(self):
    super().on_response_complete()  # between requests uvicorn has a timer of its own
    if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
      _waiting[self] = None

  def connection_lost(self, exc):
    self._head_timer = _cancelled(self._head_timer)
    self._read_timer = _cancelled(self._read_timer)
    _waiting.pop(self, None)
    super().connection_lost(exc)

  def pause_writing(self):
    super().pause_writing()
    self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

  def resume_writing(self):
    self._read_timer = _cancelled(self._read_timer)
    super().resume_writing()

  def _wait_for_head(self):
    if self._head_timer is None:
      self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def _cancelled(timer):
  if timer is not None:
    timer.cancel()
