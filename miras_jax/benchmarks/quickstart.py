"""One training step of configs/prist_quickstart.py on this machine's devices.

The real step, state and sharding, on a batch of random pixels and full rows of tokens:
no reading of data. Prints compile time, milliseconds a step, examples/s and tokens/s.

  miras bench quickstart
  miras bench quickstart --steps=50 --batch_size=32
"""

import dataclasses

import jax

from miras_jax.benchmarks.step import full_batch, time_step
from miras_jax.config import file as config_file
from miras_jax.options import Parser

LENGTH, VOCAB = 376, 704  # what the rendered conversations need


def main(argv):
  """Runs the benchmark; returns 0."""
  parser = Parser(prog="miras bench quickstart", description=__doc__)
  parser.add_argument("--steps", type=int, default=20, help="timed steps")
  parser.add_argument("--batch_size", type=int, default=0, help="default: the config's")
  args = parser.parse_args(argv)
  config = config_file.read("configs/prist_quickstart.py")
  config = config.fitted(vocab_size=VOCAB, max_len=LENGTH)
  if args.batch_size:
    config = dataclasses.replace(config, batch_size=args.batch_size)
  compile_s, step_s = time_step(
    config, full_batch(config.model.build(), config), max(args.steps, 1)
  )
  rows, length = config.batch_size, config.data.max_len
  talks = rows * config.data.pack
  print(f"devices       {jax.device_count()} x {jax.devices()[0].device_kind}")
  print(f"compile       {compile_s:.1f} s")
  print(f"step          {1e3 * step_s:.1f} ms, {rows} rows x {length} tokens")
  print(
    f"throughput    {talks / step_s:.1f} examples/s ({config.data.pack} a row),"
    f" {rows * length / step_s:.0f} tokens/s"
  )
  return 0
