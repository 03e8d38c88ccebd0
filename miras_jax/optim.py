"""Schedule, clipping and AdamW as one optax chain, from a frozen dataclass."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from miras_jax.errors import UserError

SCHEDULES = ("linear", "cosine", "constant")
DECAYED = ("kernel", "lora_a", "lora_b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """AdamW as published: (0.9, 0.95), no decay, lr 3e-4, 100 warm-up steps, clip 1.0.

  `accumulation` cuts every batch into that many micro-batches; `ema` > 0 keeps a moving
  average of what trains.
  """

  lr: float = 3e-4
  schedule: str = "linear"
  warmup_steps: int = 100
  b1: float = 0.9
  b2: float = 0.95
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  ema: float = 0.0
  accumulation: int = 1

  def __post_init__(self):
    if self.schedule not in SCHEDULES:
      raise UserError(
        f"unknown optim.schedule={self.schedule!r}; there are {', '.join(SCHEDULES)}"
      )
    if not self.lr >= 0 or not 0 <= self.ema < 1 or self.accumulation < 1:
      raise UserError(
        f"optim.lr={self.lr} must be >= 0, optim.ema={self.ema} in [0, 1) and"
        f" optim.accumulation={self.accumulation} at least 1"
      )


def make_schedule(cfg, steps):
  """Learning rate at update 0, 1, ...: linear warm-up, then down to 0 at `steps`."""
  warmup = min(cfg.warmup_steps, max(steps - 1, 0))
  rest = max(steps - warmup, 1)
  down = {
    "linear": lambda: optax.linear_schedule(cfg.lr, 0.0, rest),
    "cosine": lambda: optax.cosine_decay_schedule(cfg.lr, rest),
    "constant": lambda: optax.constant_schedule(cfg.lr),
  }[cfg.schedule]()
  if not warmup:
    return down
  # Starts at lr / warmup, not 0: the first update is not thrown away.
  up = optax.linear_schedule(cfg.lr / warmup, cfg.lr, max(warmup - 1, 1))
  return optax.join_schedules([up, down], [warmup])


def make_optimizer(cfg, steps):
  """Clip by the global norm, then AdamW with decay on matrices only.

  Moments are float32 whatever the gradient's type: masters are float32.
  """
  clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()
  adamw = optax.adamw(
    make_schedule(cfg, steps),
    b1=cfg.b1,
    b2=cfg.b2,
    weight_decay=cfg.weight_decay,
    mask=decay_mask,
    mu_dtype=jnp.float32,
  )
  return optax.chain(clip, adamw)


def decay_mask(params):
  """Weight decay acts on matrices only, told by name: scanned scales have two axes."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key in DECAYED, params)
