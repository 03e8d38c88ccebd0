"""`python -m miras_jax.launch`: the same as `miras launch`."""

from miras_jax import options
from miras_jax.launch.command import main

if __name__ == "__main__":
  options.run(main)
