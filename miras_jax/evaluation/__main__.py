"""`python -m miras_jax.evaluation`: the same as `miras eval`."""

from miras_jax import cli
from miras_jax.evaluation.command import main

if __name__ == "__main__":
  cli.run(main)
