"""`python -m miras_jax.experiment`: the same as `miras experiment`."""

from miras_jax import options
from miras_jax.experiment.command import main

if __name__ == "__main__":
  options.run(main)
