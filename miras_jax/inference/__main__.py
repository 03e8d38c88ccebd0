"""`python -m miras_jax.inference`: the same as `miras chat`."""

from miras_jax import options
from miras_jax.inference.command import main

if __name__ == "__main__":
  options.run(main)
