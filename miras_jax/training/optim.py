"""Schedule, clipping and AdamW or Muon as one optax chain, from a frozen dataclass."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from miras_jax.errors import UserError

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant")
DECAYED = ("kernel", "lora_a", "lora_b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """AdamW as published: (0.9, 0.95), no decay, lr 3e-4, 100 warm-up steps, clip 1.0.

  `accumulation` cuts every batch into that many micro-batches; `ema` > 0 keeps a moving
  average of what trains. `name="muon"` moves the matrices by Muon at `muon_lr` and the
  rest by AdamW at `lr`: fewer examples when a model starts from random weights.
  """

  name: str = "adamw"
  lr: float = 3e-4
  muon_lr: float = 5e-3
  schedule: str = "linear"
  warmup_steps: int = 100
  b1: float = 0.9
  b2: float = 0.95
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  ema: float = 0.0
  accumulation: int = 1

  def __post_init__(self):
    if self.name not in OPTIMIZERS:
      raise UserError(
        f"unknown optim.name={self.name!r}; there are {', '.join(OPTIMIZERS)}"
      )
    if self.schedule not in SCHEDULES:
      raise UserError(
        f"unknown optim.schedule={self.schedule!r}; there are {', '.join(SCHEDULES)}"
      )
    least_of = {"lr": 0, "muon_lr": 0, "warmup_steps": 0, "accumulation": 1}
    for name, least in least_of.items():
      if not least <= getattr(self, name) < math.inf:
        raise UserError(f"optim.{name}={getattr(self, name)} must be at least {least}")
    if not 0 <= self.ema < 1:
      raise UserError(f"optim.ema={self.ema} must be at least 0 and less than 1")


def make_schedule(cfg, steps, peak=None):
  """Rate at update 0, 1, ...: linear warm-up to `peak` (`cfg.lr`), 0 at `steps`."""
  peak = cfg.lr if peak is None else peak
  warmup = min(cfg.warmup_steps, max(steps - 1, 0))
  rest = max(steps - warmup, 1)
  down = {
    "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    "constant": lambda: optax.constant_schedule(peak),
  }[cfg.schedule]()
  if not warmup:
    return down
  # Starts at lr / warmup, not 0: the first update is not thrown away.
  up = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([up, down], [warmup])


def make_optimizer(cfg, steps):
  """Clip by the global norm, then AdamW (or Muon) with decay on matrices only.

  Moments are float32 whatever the gradient's type: masters are float32.
  """
  clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()
  make = {"adamw": _adamw, "muon": _muon}[cfg.name]
  return optax.chain(clip, make(cfg, steps))


def _adamw(cfg, steps):
  return optax.adamw(
    make_schedule(cfg, steps),
    b1=cfg.b1,
    b2=cfg.b2,
    weight_decay=cfg.weight_decay,
    mask=decay_mask,
    mu_dtype=jnp.float32,
  )


def _muon(cfg, steps):
  return muon(
    make_schedule(cfg, steps, cfg.muon_lr),
    weight_decay=cfg.weight_decay,
    mu_dtype=jnp.float32,
    adam_b1=cfg.b1,
    adam_b2=cfg.b2,
    adam_learning_rate=make_schedule(cfg, steps),
    muon_weight_dimension_numbers=muon_matrices,
  )


def muon_matrices(params):
  """Which axes of a leaf Muon sees as a matrix; None leaves the leaf to AdamW.

  Kernels of linear layers, each layer of a scanned stack by itself. Embeddings, the
  output head, convolutions, norms and biases are no matrices in Muon's sense.
  """

  def matrix(path, leaf):
    names = [entry.key for entry in path]
    if names[-1] != "kernel" or "lm_head" in names or leaf.ndim not in (2, 3):
      return None
    return MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)

  return jax.tree.map_with_path(matrix, params)


def decay_mask(params):
  """Weight decay acts on matrices only, told by name: scanned scales have two axes."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key in DECAYED, params)
