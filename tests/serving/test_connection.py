"""Clients that hold a connection for nothing, at a server on a port of its own."""

import contextlib
import http.client
import socket
import threading

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs miras_jax[serve]")
from miras_jax.serving import connection, guard  # noqa: E402

HALF_A_HEAD = b"POST /slow HTTP/1.1\r\nHost: x\r\nX-"
LARGE = 64 * 2**20  # bytes: more than sockets hold


async def app(scope, receive, send):
  """Reads the body, answers "here"; to /large with more than a socket holds."""
  while (await receive()).get("more_body"):
    pass
  body = b"x" * LARGE if scope["path"] == "/large" else b"here"
  await send({"type": "http.response.start", "status": 200, "headers": []})
  await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(application=app):
  """Port of a server, as `miras serve` runs it."""
  listening = socket.create_server(("127.0.0.1", 0))
  config = uvicorn.Config(
    application, http=connection.Connection, log_config=None, lifespan="off"
  )
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
  thread.start()
  try:
    yield listening.getsockname()[1]
  finally:
    server.force_exit = server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture
def connect():
  """(port, data) -> a socket that has sent the data."""
  with contextlib.ExitStack() as opened:

    def connect(port, data=b""):
      client = socket.create_connection(("127.0.0.1", port), timeout=20)
      opened.enter_context(client)
      client.sendall(data)
      return client

    yield connect


def is_closed(client):
  try:
    return client.recv(1) == b""
  except ConnectionError:
    return True


def ask(client):
  client.request("GET", "/")
  return client.getresponse().read()


@pytest.mark.parametrize("data", [b"", HALF_A_HEAD])
def test_whoever_only_holds_connections_keeps_nobody_out(monkeypatch, connect, data):
  monkeypatch.setattr(connection, "MOST_WAITING", 3)
  with serving() as port:
    held = [connect(port, data) for _ in range(10)]
    assert all(map(is_closed, held[:6]))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(client):
      assert ask(client) == b"here"


@pytest.mark.parametrize("data", [b"", HALF_A_HEAD])
def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch, connect, data):
  monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
  with serving() as port:
    assert is_closed(connect(port, data))


def test_a_client_that_reads_nothing_is_left(monkeypatch, connect):
  monkeypatch.setattr(connection, "READ_SECONDS", 0.1)
  with serving() as port:
    connect(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    lost = threading.Event()
    closed = connection.Connection.connection_lost
    monkeypatch.setattr(
      connection.Connection,
      "connection_lost",
      lambda self, error: (closed(self, error), lost.set()),
    )
    assert lost.wait(20)


def test_a_connection_is_kept_for_the_next_request(monkeypatch):
  monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
  with serving() as port:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(client):
      assert ask(client) == b"here"
      first = client.sock
      threading.Event().wait(0.5)  # past HEAD_SECONDS
      assert ask(client) == b"here" and client.sock is first


def test_a_body_that_drips_is_408(monkeypatch, connect):
  monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
  from miras_jax.serving.app import make_app
  from tests.serving import helpers

  service = helpers.service()
  application = make_app(service)
  body = (
    b"POST /v1/conversations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
  )
  body += b"Content-Length: 99\r\n\r\n"
  with serving(application) as port:
    client = connect(port, body)
    client.settimeout(0.05)
    answer = b""
    for _ in range(90):  # a byte each time, never BODY_SECONDS without one
      client.sendall(b"x")
      with contextlib.suppress(TimeoutError):
        answer = client.recv(1000)
        break
  assert answer.startswith(b"HTTP/1.1 408")
