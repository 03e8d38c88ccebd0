"""`python -m miras_jax.evaluation`: the same as `miras eval`."""

from miras_jax import options
from miras_jax.evaluation.command import main

if __name__ == "__main__":
  options.run(main)
