"""One training step of configs/prist_quickstart.py on this machine's devices.

The real step, state and sharding, on a batch of random pixels and full rows of tokens:
no reading of data. Prints compile time, milliseconds a step, examples/s and tokens/s.

  miras bench quickstart
  miras bench quickstart --steps=50 --batch_size=32
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax import cli, config_file, fresh, sharding, train, train_step
from miras_jax import mesh as mesh_lib
from miras_jax.models import miras
from miras_jax.objective import MirasObjective
from miras_jax.program import Program
from miras_jax.run_config import RunConfig
from miras_jax.task import Task

LENGTH, VOCAB = 128, 512  # about what the rendered conversations need


def main(argv):
  """Runs the benchmark; returns 0."""
  parser = cli.Parser(prog="miras bench quickstart", description=__doc__)
  parser.add_argument("--steps", type=int, default=20, help="timed steps")
  parser.add_argument("--batch_size", type=int, default=0, help="default: the config's")
  args = parser.parse_args(argv)
  config = RunConfig.from_config_dict(config_file.load("configs/prist_quickstart.py"))
  config = config.fitted(vocab_size=VOCAB, max_len=LENGTH)
  if args.batch_size:
    config = dataclasses.replace(config, batch_size=args.batch_size)
  for line in measure(config, max(args.steps, 1)):
    print(line)
  return 0


def measure(config, steps):
  """Lines of the result of `steps` timed steps of a RunConfig."""
  mesh = mesh_lib.make_mesh(config.mesh)
  mesh_lib.check_batch(config.batch_size, mesh, accumulation=config.optim.accumulation)
  cfg = config.model.build()
  model = miras.Miras(cfg, jnp.dtype(config.model.dtype))
  task = Task(
    config=config,
    init=functools.partial(miras.init_params, cfg),
    objective=MirasObjective(model, config.loss, config.loss_resolution),
    batches=None,
    probe=None,
  )
  with jax.set_mesh(mesh):
    shapes, parts = train.plan(task, mesh)
    placed = jax.tree.map(lambda x: x.sharding, shapes)
    make = functools.partial(fresh.make_state, task, parts.tx)
    state = jax.jit(make, out_shardings=placed)()
    batch = jax.device_put(full_batch(cfg, config), sharding.batch_sharding(mesh))
    step = jax.jit(
      functools.partial(train_step.train_step, parts=parts),
      out_shardings=(placed, sharding.replicated_sharding(mesh)),
      donate_argnums=0,
    )
    program = Program("train_step", step, shapes, batch)
    state, _ = jax.block_until_ready(program(state, batch))
    start = time.perf_counter()
    for _ in range(steps):
      state, metrics = program(state, batch)
    jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - start) / steps
  rows, tokens = config.batch_size, config.batch_size * config.data.max_len
  return (
    f"devices       {jax.device_count()} x {jax.devices()[0].device_kind}",
    f"compile       {program.seconds:.1f} s",
    f"step          {1e3 * seconds:.1f} ms, {rows} x {config.data.max_len} tokens",
    f"throughput    {rows / seconds:.1f} examples/s, {tokens / seconds:.0f} tokens/s",
  )


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
  batch["tokens"] = rng.integers(0, VOCAB // 2, shape, np.int32)
  slots = np.full(shape, -1, np.int32)
  slots[:, : cfg.num_image_tokens] = np.arange(cfg.num_image_tokens)
  batch["image_slot"] = slots
  batch["positions"] = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
  ones = ("segments", "loss_mask", "seg_valid")
  batch |= {name: np.ones_like(batch[name]) for name in ones}
  batch["seg_pos"] = np.full_like(batch["seg_pos"], shape[1] - 1)
  batch["obj_pos"] = np.full_like(batch["obj_pos"], -1)
  batch["valid_hw"] = np.full_like(batch["valid_hw"], cfg.sam_encoder.image_size)
  return {k: np.asarray(v) for k, v in batch.items()}
