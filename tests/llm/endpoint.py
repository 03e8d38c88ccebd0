"""An OpenAI-compatible server in a thread that misbehaves as it is told."""

import contextlib
import gzip
import hashlib
import http.server
import json
import threading
import time


class Endpoint:
  """script(body, n) -> what to do with a request that came n times before; see `Do`.

  seen: the bodies in order of arrival; keys: the Authorization headers.
  """

  def __init__(self, script):
    self.script, self.seen, self.keys = script, [], []
    self._times, self._lock = {}, threading.Lock()

  def take(self, body, key):
    with self._lock:
      self.seen.append(body)
      self.keys.append(key)
      text = json.dumps(body, sort_keys=True)
      self._times[text] = self._times.get(text, -1) + 1
      return self.script(body, self._times[text])


class Do:
  """What a script returns."""

  @staticmethod
  def say(text, **fields):
    """A sound completion of this text."""
    choice = {"message": {"role": "assistant", "content": text}} | fields
    choice.setdefault("finish_reason", "stop")
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return Do.raw(json.dumps({"model": "m-1", "choices": [choice], "usage": usage}))

  @staticmethod
  def refuse():
    return Do.say(None, message={"content": None, "refusal": "I cannot rate that."})

  @staticmethod
  def raw(text, status=200, promised=None, **headers):
    """Any text; `promised`: the length that the header claims."""

    def do(handler):
      data = text.encode()
      handler.send_response(status)
      handler.send_header("Content-Type", "application/json")
      handler.send_header("Content-Length", str(promised or len(data)))
      for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
      handler.end_headers()
      handler.wfile.write(data)
      handler.close_connection = True

    return do

  @staticmethod
  def error(status, message="no", code=None, **headers):
    body = {"error": {"message": message, "code": code}}
    return Do.raw(json.dumps(body), status, **headers)

  @staticmethod
  def sleep(seconds):
    return lambda handler: time.sleep(seconds)

  @staticmethod
  def drop():
    return lambda handler: handler.connection.close()

  @staticmethod
  def trickle(status=200, in_head=False):
    """A byte now and then, for ever: no read times out."""

    def do(handler):
      handler.send_response(status)
      if in_head:
        handler.send_header("X-Long", "")
        handler.flush_headers()
      else:
        handler.end_headers()
      with contextlib.suppress(OSError):
        while True:
          handler.wfile.write(b" ")
          time.sleep(0.02)

    return do

  @staticmethod
  def flood(status=200, **headers):
    """Bytes without an end."""

    def do(handler):
      handler.send_response(status)
      for name, value in headers.items():
        handler.send_header(name, value)
      handler.end_headers()
      with contextlib.suppress(OSError):
        while True:
          handler.wfile.write(b" " * 65536)

    return do

  @staticmethod
  def packed(text):
    """A text as gzip, which nobody asked for."""

    def do(handler):
      data = gzip.compress(text.encode())
      handler.send_response(200)
      handler.send_header("Content-Encoding", "gzip")
      handler.send_header("Content-Length", str(len(data)))
      handler.end_headers()
      handler.wfile.write(data)

    return do


def steady(body, _):
  """A judge whose verdict depends on the request alone, at random otherwise."""
  digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
  schema = body["response_format"]["json_schema"]["schema"]
  fields = {"reason": f"because {digest[0]}"}
  for i, (name, kind) in enumerate(schema["properties"].items()):
    if "enum" in kind:
      fields[name] = kind["enum"][digest[i] % len(kind["enum"])]
  return Do.say(json.dumps(fields))


@contextlib.contextmanager
def serve(script):
  """(base URL, Endpoint) of a running server."""
  endpoint = Endpoint(script)

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
      endpoint.take(body, self.headers["Authorization"])(self)

    def log_message(self, *_):
      pass

  class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
      pass  # a client that left

  server = Server(("127.0.0.1", 0), Handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/v1", endpoint
  finally:
    server.shutdown()
    server.server_close()
