"""A run of seconds through the real loop: three matrices, data made from a seed.

  python -m miras_jax.benchmarks.toy_run --workdir=runs/toy --steps=20
  python -m miras_jax.benchmarks.toy_run --workdir=runs/toy --mesh=data=2,fsdp=-1

Everything but model and data is what `miras train` runs: mesh, step, checkpoints, logs,
processes, signals. `miras bench faults` harms it; every fault below counts in steps.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from configs import common
from miras_jax import logs, options
from miras_jax.checkpoint import lock, workdir
from miras_jax.config import run as run_config
from miras_jax.options import Parser
from miras_jax.parallel import distributed
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import loop
from miras_jax.training.task import Task

RULES = (
  (r"^clip/kernel$", P("fsdp", "tensor")),
  (r"^seg_prompt/kernel$", P("tensor", "fsdp")),
  (r"^sam/decoder/kernel$", P("fsdp", "tensor")),
)
RECORDS = 1000


class ToyObjective:
  """Fits `y` from `x` where `mask` is set, with a little noise in training."""

  weights = {"ce": 1.0}

  def counts(self, batch):
    return {"ce": batch["mask"].astype(jnp.float32).sum()}

  def sums(self, params, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["clip"]["kernel"])
    if rng is not None:
      hidden += 0.1 * jax.random.normal(rng, hidden.shape)
    hidden = jnp.tanh(hidden @ params["seg_prompt"]["kernel"])
    error = hidden @ params["sam"]["decoder"]["kernel"] - batch["y"]
    mask = batch["mask"].astype(jnp.float32)
    hit = (jnp.abs(error) < 0.5) * mask
    sums = {"ce": (jnp.square(error) * mask).sum()}
    return sums, {"hits": (hit.sum(), mask.sum())}


def init(key, width):
  """{clip (frozen), seg_prompt, sam}: `width` squared parameters in seg_prompt."""
  keys = jax.random.split(key, 3)
  shapes = ((8, width), (width, width), (width, 8))
  made = [
    {"kernel": jax.random.normal(k, shape) / shape[0] ** 0.5}
    for k, shape in zip(keys, shapes, strict=True)
  ]
  return {"clip": made[0], "seg_prompt": made[1], "sam": {"decoder": made[2]}}


class ToyData:
  """Endless batches that depend on their number alone; this process's rows of them."""

  def __init__(self, size, host, *, nan=(), spike=0, broken=0):
    self.size, self.host = size, host
    self.nan, self.spike, self.broken = nan, spike, broken
    self.position = 0

  def __iter__(self):
    return self

  def __next__(self):
    self.position += 1
    if self.position == self.broken:
      self.broken, self.position = 0, self.position - 1
      raise OSError("the file server went away")
    rng = np.random.default_rng(self.position)
    seen = rng.random((self.size, 8)) < rng.random((self.size, 1))
    made = {
      "x": rng.normal(size=(self.size, 8)).astype(np.float32),
      "y": rng.normal(size=(self.size, 8)).astype(np.float32),
      "mask": seen.astype(np.int32),
      "record": rng.integers(0, RECORDS, self.size).astype(np.int32),
    }
    if self.position in self.nan:
      made["y"][:] = np.nan
    if self.position == self.spike:
      made["y"] *= 1e4
    index, count = self.host
    rows = slice(index * self.size // count, (index + 1) * self.size // count)
    return {name: value[rows] for name, value in made.items()}

  def records(self, batch):
    return batch["record"].tolist()

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]

  def close(self):
    pass


class SmallDisk:
  """From step `first` to step `last` no file may grow past `kilobytes`: a full disk."""

  def __init__(self, data, *, first, last, kilobytes):
    self.data, self.first, self.last, self.limit = data, first, last, kilobytes * 1024

  def __getattr__(self, name):
    return getattr(self.data, name)

  def __next__(self):
    batch = next(self.data)
    full = self.first <= self.data.position < self.last
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit if full else hard, hard))
    return batch


class SlowData:
  """Waits before each batch, so that there is time to be killed in."""

  def __init__(self, data, seconds):
    self.data, self.seconds = data, seconds

  def __getattr__(self, name):
    return getattr(self.data, name)

  def __next__(self):
    time.sleep(self.seconds)
    return next(self.data)


def make_config(args):
  """The RunConfig of `args`."""
  c = common.base_config()
  c.update(
    dict(
      trainable="paper", steps=args.steps, checkpoint_every=args.every, keep=args.keep,
      batch_size=16, probe_every=10**9, log_every=10**9, max_skipped=3,
    )
  )  # fmt: skip
  c.optim.update(warmup_steps=2, lr=args.lr)
  sizes = (item.split("=") for item in filter(None, args.mesh.split(",")))
  c.mesh.update({name: int(size) for name, size in sizes})
  return run_config.RunConfig.from_config_dict(c)


def make_task(config, args, host):
  nan = range(args.nan, args.nan + args.nans) if args.nan else ()
  data = ToyData(16, host, nan=nan, spike=args.spike, broken=args.broken)
  if args.full:
    first, last = map(int, args.full.split(":"))
    data = SmallDisk(data, first=first, last=last, kilobytes=64)
  if args.slow:
    data = SlowData(data, args.slow)
  return Task(
    config=config,
    init=lambda key: init(key, args.width),
    objective=ToyObjective(),
    batches=data,
    probe=None,
    rules=RULES,
  )


def parser():
  made = Parser(prog="toy_run", description=__doc__)
  made.add_argument("--workdir", required=True)
  made.add_argument("--steps", type=int, default=20)
  made.add_argument("--every", type=int, default=5, help="steps between checkpoints")
  made.add_argument("--keep", type=int, default=3)
  made.add_argument("--width", type=int, default=64)
  made.add_argument("--lr", type=float, default=3e-3)
  made.add_argument("--mesh", default="", help="sizes, e.g. data=2,fsdp=-1")
  made.add_argument("--nan", type=int, default=0, help="first batch of NaN")
  made.add_argument("--nans", type=int, default=1, help="how many of them")
  made.add_argument("--spike", type=int, default=0, help="batch of huge targets")
  made.add_argument("--broken", type=int, default=0, help="batch that fails once")
  made.add_argument("--full", default="", help="FIRST:LAST batch of a full disk")
  made.add_argument("--slow", type=float, default=0.0, help="seconds before a batch")
  return made


def main(argv):
  """Runs it as `miras train` would; returns the exit status."""
  args = parser().parse_args(argv)
  logs.to_stderr()
  config = make_config(args)
  distributed.start(config.distributed)
  logs.of_process(jax.process_index())
  distributed.require_same("config", run_config.shared_by_processes(config))
  devices = mesh_lib.make_mesh(config.mesh)
  task = make_task(config, args, mesh_lib.data_host(devices))
  place = workdir.Workdir(args.workdir)
  held = lock.hold_together(place.path, "toy_run", place.make)
  with held, place.written_by(jax.process_index()):
    return loop.train(task, place, devices)


if __name__ == "__main__":
  options.run(main, sys.argv[1:])
