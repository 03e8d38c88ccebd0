"""Schedule, clipping and AdamW or Muon as one optax chain, from an OptimConfig."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

DECAYED = ("kernel", "lora_a", "lora_b")


HELD = 0.1  # of the highest rate: what `extend=hold` holds at least


def make_schedule(cfg, steps, peak=None):
  """Rate at update 0, 1, ...: linear warm-up to `peak` (`cfg.lr`), 0 at `steps`.

  Where the run was extended (`cfg.extended`), each part ends where the next begins:
  hold   the rate of the update before, `HELD` of the highest where that is less
  rewarm from the rate of the update before up to the highest, then down to 0
  """
  peak = cfg.lr if peak is None else peak
  parts = [(end, form) for end, form in cfg.extensions if end < steps]
  ends = [end for end, _ in parts] + [steps]
  schedule = _part(cfg, ends[0], peak)
  for (start, form), end in zip(parts, ends[1:], strict=True):
    last = float(schedule(start - 1))
    if form == "hold":
      follow = optax.constant_schedule(max(last, HELD * peak))
    else:
      follow = _part(cfg, end - start, peak, last)
    schedule = optax.join_schedules([schedule, follow], [start])
  return schedule


def _part(cfg, steps, peak, start=0.0):
  """Warm-up from above `start` to `peak`, then down to 0 at `steps`."""
  warmup = min(cfg.warmup_steps, max(steps - 1, 0))
  rest = max(steps - warmup, 1)
  down = {
    "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    "constant": lambda: optax.constant_schedule(peak),
  }[cfg.schedule]()
  if not warmup:
    return down
  # Not from `start` itself, which may be 0: the first update is not thrown away.
  first = start + (peak - start) / warmup
  up = optax.linear_schedule(first, peak, max(warmup - 1, 1))
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
