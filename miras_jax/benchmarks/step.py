"""Times the real training step of a RunConfig on a batch; what benchmarks share."""

import importlib
import time
from typing import NamedTuple

import jax
import numpy as np

from miras_jax.errors import UserError
from miras_jax.models import miras
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.parallel.compiled import Program
from miras_jax.training import initial_state, plan, task


def import_torch_side(name):
  """The module `torch_side`; UserError for benchmark `name` where PyTorch is not."""
  try:
    return importlib.import_module("miras_jax.benchmarks.torch_side")
  except ImportError as error:
    raise UserError(
      f"miras bench {name}: {error.name} is missing:"
      " pip install torch==2.13.0 transformers"
    ) from None


class Timing(NamedTuple):
  """Seconds to compile the step, and seconds of one step."""

  compile_s: float
  step_s: float


class Step:
  """The real training step of a RunConfig on one host `batch`, compiled and run once.

  The real step, state and sharding on this machine's devices. A call takes one more
  step and returns its metrics, without waiting for them.
  """

  def __init__(self, config, batch):
    mesh = mesh_lib.make_mesh(config.mesh)
    accumulation = config.optim.accumulation
    mesh_lib.check_batch(config.batch_size, mesh, accumulation=accumulation)
    run_task = task.model_task(config)
    with jax.set_mesh(mesh):
      shapes, parts = plan.make_plan(run_task, mesh)
      self._state = initial_state.load(run_task, shapes, parts.tx)
      self._batch = jax.device_put(batch, sharding.batch_shardings(mesh, batch))
      step = plan.jit_train_step(parts, shapes)
      self._program = Program("train_step", step, shapes, self._batch)
      jax.block_until_ready(self())

  @property
  def compile_s(self):
    return self._program.seconds

  def __call__(self):
    self._state, metrics = self._program(self._state, self._batch)
    return metrics


def time_step(config, batch, steps) -> Timing:
  """Timing of `steps` training steps of a RunConfig; the first one is not counted."""
  step = Step(config, batch)
  start = time.perf_counter()
  for _ in range(steps):
    metrics = step()
  jax.block_until_ready(metrics)
  return Timing(step.compile_s, (time.perf_counter() - start) / steps)


def full_batch(cfg, config):
  """A Batch without padding: random pixels and tokens, every mask slot in use."""
  data, rng = config.data, np.random.default_rng(0)
  batch = dict(
    miras.dummy_batch(
      cfg,
      batch_size=config.batch_size,
      length=data.max_len,
      max_masks=data.max_masks,
    )
  )
  for name in ("image_sam", "image_aux"):
    batch[name] = rng.integers(0, 256, batch[name].shape, np.uint8)
  shape = batch["tokens"].shape
  batch["tokens"] = rng.integers(0, cfg.llama.vocab_size // 2, shape, np.int32)
  slots = np.full(shape, -1, np.int32)
  slots[:, : cfg.num_image_tokens] = np.arange(cfg.num_image_tokens)
  batch["image_slot"] = slots
  batch["positions"] = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
  ones = ("segments", "loss_mask", "seg_valid")
  batch |= {name: np.ones_like(batch[name]) for name in ones}
  batch["seg_pos"] = np.full_like(batch["seg_pos"], shape[1] - 1)
  return {k: np.asarray(v) for k, v in batch.items()}
