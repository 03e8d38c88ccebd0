"""The next token of each row: the likeliest, or one drawn from the likely ones.

B rows, V vocabulary.
"""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miras_jax.errors import UserError

HOTTEST, SEEDS = 10, 2**32
MOST_TOKENS = 2**31  # what fits an int32


class Sampling(NamedTuple):
  """How rows choose. temperature_B 0 is greedy; top_p_B: only the likeliest tokens that
  have this share together; seed_B: equal seeds, equal answers."""

  temperature_B: jax.Array
  top_p_B: jax.Array
  seed_B: jax.Array

  @classmethod
  def greedy(cls, batch: int) -> "Sampling":
    """Every row takes its likeliest token."""
    return cls.of([(0.0, 1.0, 0)] * batch)

  @classmethod
  def of(cls, choices) -> "Sampling":
    """Of one (temperature, top_p, seed) a row."""
    temperature, top_p, seed = zip(*choices, strict=True)
    return cls(
      jnp.array(temperature, jnp.float32),
      jnp.array(top_p, jnp.float32),
      jnp.array(seed, jnp.uint32),
    )


def checked(temperature, top_p, seed) -> tuple:
  """The choice of a row as it is; UserError for numbers that make no sense."""
  if not (isinstance(temperature, numbers.Real) and 0 <= temperature <= HOTTEST):
    raise UserError(f"temperature={temperature!r} is not within 0 to {HOTTEST}")
  if not (isinstance(top_p, numbers.Real) and 0 < top_p <= 1):
    raise UserError(f"top_p={top_p!r} must be more than 0 and at most 1")
  if not (isinstance(seed, numbers.Integral) and 0 <= seed < SEEDS):
    raise UserError(f"seed={seed!r} is no whole number within 0 to {SEEDS - 1}")
  return temperature, top_p, int(seed)


def checked_chunk(chunk) -> int | None:
  """How many tokens an answer grows by at a time; UserError for what is no number."""
  number = isinstance(chunk, numbers.Integral) and not isinstance(chunk, bool)
  if chunk is not None and not (number and 0 < chunk < MOST_TOKENS):
    raise UserError(f"chunk={chunk!r} is no whole number of tokens from 1 on")
  return None if chunk is None else int(chunk)


def pick(logits_BV, sampling: Sampling, step_B) -> jax.Array:
  """Next tokens [B] int32; what is drawn depends on seed and step of the row alone."""
  likeliest_B = logits_BV.argmax(-1)

  def draw():
    drawn_B = jax.vmap(_draw)(logits_BV, *sampling, step_B)
    return jnp.where(sampling.temperature_B > 0, drawn_B, likeliest_B)

  greedy = ~(sampling.temperature_B > 0).any()
  return jax.lax.cond(greedy, lambda: likeliest_B, draw).astype(jnp.int32)


def _draw(logits_V, temperature, top_p, seed, step):
  """Nucleus sampling (Holtzman et al. 2020) of one row."""
  scaled_V = logits_V / jnp.maximum(temperature, 1e-6)
  order_V = jnp.argsort(-scaled_V)
  share_V = jax.nn.softmax(scaled_V[order_V])
  before_V = (
    jnp.cumsum(share_V) - share_V
  )  # of what is likelier: the first always stays
  kept_V = jnp.where(before_V < top_p, scaled_V[order_V], -jnp.inf)
  key = jax.random.fold_in(jax.random.key(seed), step)
  return order_V[jax.random.categorical(key, kept_V)]
