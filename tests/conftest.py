"""Eight simulated devices for every test, set before jax is imported."""

import gc
import os
import pathlib
import signal
import sys

import pytest

from miras_jax import options

# Which files and folders of tests come first, in this order.
WAITING = {"test_rehearsal.py": 0, "storage": 1, "parallel": 2, "test_streams.py": 3}
MOST_BYTES = 3 << 30  # that a worker keeps from one file of tests to the next

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
  flags += " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = options.in_order(flags)


def pytest_collection_modifyitems(items):
  """The longest test starts first, so that no worker waits for it at the end, and with
  it those that mostly wait, for a bucket or another process: one worker gets them, and
  the others have the cores."""
  items.sort(key=lambda item: min(map(WAITING.get, item.path.parts[-2:], (9, 9))))


def pytest_collection_finish():
  """Tracing makes millions of objects that are hardly ever in a circle, and walking all
  of them at the usual thresholds is a sixth of a test's time."""
  gc.collect()
  gc.freeze()  # the tests themselves
  gc.set_threshold(100_000, 50, 50)


@pytest.fixture(autouse=True, scope="module")
def no_growth():
  """Compiled programs are kept for ever; a process of thousands of tests forgets."""
  yield
  if "jax" in sys.modules and _resident_bytes() > MOST_BYTES:
    sys.modules["jax"].clear_caches()


def _resident_bytes():
  """Memory of this process; 0 where the system does not say."""
  try:
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
  except OSError:
    return 0
  return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def ends_soon():
  """What waits for ever is an error, not a test that does not end."""

  def stop(*_):
    raise TimeoutError("no end after 20 s")

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(20)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)
