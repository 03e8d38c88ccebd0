"""`python -m miras_jax.scale`: the same as `miras scale`."""

from miras_jax import options
from miras_jax.scale.command import main

if __name__ == "__main__":
  options.run(main)
