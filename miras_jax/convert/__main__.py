"""`python -m miras_jax.convert`: the same as `miras convert`."""

from miras_jax import options
from miras_jax.convert.command import main

if __name__ == "__main__":
  options.run(main)
