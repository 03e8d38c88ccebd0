"""`python -m miras_jax.checkpoint`: the same as `miras checkpoint`."""

from miras_jax import options
from miras_jax.checkpoint.command import main

if __name__ == "__main__":
  options.run(main)
