"""`python -m miras_jax.convert`: the same as `miras convert`."""

from miras_jax import cli
from miras_jax.convert.command import main

if __name__ == "__main__":
  cli.run(main)
