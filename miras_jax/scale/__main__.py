"""`python -m miras_jax.scale`."""

from miras_jax import cli
from miras_jax.scale.command import main

cli.run(main)
