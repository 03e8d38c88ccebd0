"""A model of two matrices and its objective: what the step and the loop need, small."""

import jax
import jax.numpy as jnp
import numpy as np


class ToyObjective:
  """Fits `y` from `x` under `mask`; `ce` trains, `extra` is only logged.

  `noise` adds rng-dependent noise, as dropout would.
  """

  weights = {"ce": 1.0, "dice": 0.5}

  def __init__(self, noise=0.0):
    self.noise = noise

  def counts(self, batch):
    mask = batch["mask"].astype(jnp.float32)
    return {"ce": mask.sum(), "dice": (mask.sum(-1) > 0).sum().astype(jnp.float32)}

  def sums(self, params, batch, rng):
    x, mask = batch["x"], batch["mask"].astype(jnp.float32)
    hidden = jnp.tanh(x @ params["clip"]["kernel"])
    if rng is not None and self.noise:
      hidden += self.noise * jax.random.normal(rng, hidden.shape)
    error = jnp.square(hidden @ params["llm"]["kernel"] - batch["y"]) * mask
    row = error.sum(-1) / jnp.maximum(mask.sum(-1), 1)
    hit = (error < 0.1).astype(jnp.float32) * mask
    return {"ce": error.sum(), "dice": row.sum()}, {"hits": (hit.sum(), mask.sum())}


def params(seed=0, width=8):
  keys = jax.random.split(jax.random.key(seed))
  return {
    "clip": {"kernel": jax.random.normal(keys[0], (width, 16))},
    "llm": {"kernel": jax.random.normal(keys[1], (16, 4))},
  }


def batch(rng, size=16, width=8):
  """A batch in which examples have very different numbers of valid targets."""
  return {
    "x": rng.normal(size=(size, width)).astype(np.float32),
    "y": rng.normal(size=(size, 4)).astype(np.float32),
    "mask": (rng.random((size, 4)) < rng.random((size, 1))).astype(np.int32),
  }


class ToyData:
  """Endless batches that depend on a seed and a position; the state is the position."""

  def __init__(self, size=16, bad_steps=(), at=None, call=None):
    self.size, self.bad_steps, self.position = size, bad_steps, 0
    self.at, self.call = at, call

  def __iter__(self):
    return self

  def __next__(self):
    made = batch(np.random.default_rng(self.position), self.size)
    self.position += 1
    if self.position in self.bad_steps:
      made["y"][:] = np.nan
    if self.position == self.at:
      self.call()
    made["segments"] = np.ones((self.size, 5), np.int32)
    made["record"] = np.arange(self.size, dtype=np.int32)
    return made

  def records(self, batch):
    return batch["record"].tolist()

  def get_state(self):
    return {"position": self.position}

  def set_state(self, state):
    self.position = state["position"]

  def close(self):
    pass
