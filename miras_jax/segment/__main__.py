"""`python -m miras_jax.segment`: the same as `miras segment`."""

from miras_jax import options
from miras_jax.segment.command import main

if __name__ == "__main__":
  options.run(main)
