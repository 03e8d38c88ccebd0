"""What the log says of speed and use: rates, waits, memory, a trace on request."""

import time

import jax

from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.parallel import chips

GB = 1e9
# Numbers of the log that differ between equal runs.
TIMINGS = (
  "examples_per_s", "tokens_per_s", "step_s", "data_wait_s", "save_wait_s", "goodput"
)  # fmt: skip


class Meters:
  """Turns the clock into numbers, step by step.

  shares: into how many parts the processes cut a batch (`mesh.data_host`).
  flops: floating-point operations of one step over all devices, or None.
  """

  def __init__(self, *, shares=1, flops=None):
    self.shares = shares
    self.flops = flops
    chip = chips.find(jax.devices()[0].device_kind)
    self.peak = chip and chip.peak_flops * jax.device_count()
    self._clock = time.perf_counter()
    self._idle = 0.0  # of the interval that is running

  def begin(self):
    """The first step is about to be made."""
    self._clock, self._idle = time.perf_counter(), 0.0

  def idle(self, seconds):
    """Time in which a save kept the devices waiting."""
    self._idle += seconds

  def step(self, notes):
    """{name: number} at the end of a step. notes: what `train` knows of its batch."""
    now = time.perf_counter()
    seconds = max(now - self._clock, 1e-9)
    idle = self._idle
    self._clock, self._idle = now, 0.0
    out = {
      "examples_per_s": len(notes["record"]) * self.shares / seconds,
      "tokens_per_s": notes["tokens"] * self.shares / seconds,
      "step_s": seconds,
      "data_wait_s": notes["data_wait_s"],
      "save_wait_s": idle,
    }
    if self.flops:
      out["model_tflops_per_s"] = self.flops / seconds / 1e12
      if self.peak:
        out["mfu"] = self.flops / seconds / self.peak
    return out | memory()


def memory() -> dict[str, float]:
  """Gigabytes in use on the fullest local device; nothing where it is not counted."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  names = {"hbm_gb": "bytes_in_use", "hbm_peak_gb": "peak_bytes_in_use"}
  return {
    name: max(s[key] for s in stats) / GB
    for name, key in names.items()
    if all(key in s for s in stats)
  }


class Profile:
  """Writes a jax.profiler trace of `count` steps from step `first` on."""

  def __init__(self, folder, first, count):
    self.folder, self.first, self.count = folder, first, count
    self._running = False

  def before(self, step):
    """Called before step number `step` is started."""
    if step == self.first:
      jax.profiler.start_trace(str(self.folder))
      self._running = True

  def after(self, step, result):
    """Called when step number `step` has been started; waits for the last one."""
    if self._running and step >= self.first + self.count - 1:
      jax.block_until_ready(result)
      self.close()

  def close(self):
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
      log.info("wrote a trace to %s (xprof and Perfetto read it)", self.folder)


def parse_profile(text):
  """ "100:5" -> (100, 5): five steps from step 100 on."""
  first, colon, count = text.partition(":")
  try:
    found = int(first), int(count) if colon else 1
    if min(found) < 1:
      raise ValueError
  except ValueError:
    raise UserError(
      f"--profile={text}: want STEP:COUNT, e.g. --profile=100:5"
    ) from None
  return found
