"""`python -m miras_jax.training`: the same as `miras train`."""

from miras_jax import options
from miras_jax.training.command import main

if __name__ == "__main__":
  options.run(main)
