"""`python -m miras_jax.data`: the same as `miras data`."""

from miras_jax import options
from miras_jax.data.command import main

if __name__ == "__main__":
  options.run(main)
