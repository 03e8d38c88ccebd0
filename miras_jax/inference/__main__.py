"""`python -m miras_jax.inference`: the same as `miras chat`."""

from miras_jax import cli
from miras_jax.inference.chat import main

if __name__ == "__main__":
  cli.run(main)
