"""MIRAS in JAX: multi-turn pixel-level reasoning segmentation."""

__version__ = "0.1.0"
