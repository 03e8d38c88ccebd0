"""MIRAS in JAX: multi-turn pixel-level reasoning segmentation."""

__version__ = "0.1.0"
__all__ = ["Predictor"]


def __getattr__(name):
  """The API, imported when it is asked for: `miras --help` need not start JAX."""
  if name == "Predictor":
    from miras_jax.inference.predictor import Predictor

    return Predictor
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
