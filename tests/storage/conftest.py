"""A bucket on loopback for the tests that need one."""

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from miras_jax.storage import copies

NEEDED = ("gcp_storage_emulator", "gcsfs")
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Server:
  """The emulator as a process of its own, which a test may end or stop."""

  def __init__(self, folder, port=None):
    self.folder, self.port = folder, port or free_port()
    words = ["-m", "tests.storage.emulator", str(self.port), str(folder)]
    self.process = subprocess.Popen(
      [sys.executable, *words],
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    self._wait()

  def _wait(self):
    for _ in range(300):
      with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.1", self.port)) == 0:
          return
      time.sleep(0.1)
    raise TimeoutError("the emulator does not start")

  def state(self) -> str:
    """The names of all that it has, and more: what it begins with after a kill."""
    path = self.folder / ".cloudstorage" / ".meta"
    return path.read_text() if path.exists() else ""

  def kill(self):
    self.process.kill()
    self.process.wait()

  def variables(self):
    """What every client library needs, or it waits for the real one for ever."""
    place = f"http://127.0.0.1:{self.port}"
    return {
      "STORAGE_EMULATOR_HOST": place,
      "TENSORSTORE_GCS_HTTP_URL": place,
      "CLOUD_STORAGE_EMULATOR_ENDPOINT": place,
      "NO_GCE_CHECK": "true",
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
      "GOOGLE_CLOUD_PROJECT": "p",
    }


def free_port():
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
  missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
  if missing:
    pytest.skip(f"{missing[0]} is not installed: no bucket to test with")
  made = Server(tmp_path_factory.mktemp("emulator"))
  yield made
  made.kill()


@pytest.fixture(scope="session")
def _variables(server):
  """For the whole session: a client library reads them once."""
  with pytest.MonkeyPatch.context() as patch:
    for name, value in server.variables().items():
      patch.setenv(name, value)
    yield


@pytest.fixture
def bucket(_variables, request, tmp_path, monkeypatch):
  """gs:// place of this test, with a cache of its own."""
  monkeypatch.setenv("MIRAS_CACHE", str(tmp_path / "cache"))
  copies._fetch.cache_clear()
  return f"gs://bkt/{request.node.name}-{os.getpid()}".replace("[", "/").rstrip("]")
