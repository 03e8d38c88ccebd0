"""`python -m miras_jax.serving`: the same as `miras serve`."""

from miras_jax import options
from miras_jax.serving.command import main

if __name__ == "__main__":
  options.run(main)
