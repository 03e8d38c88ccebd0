"""What the registers of a TPU ask of shapes."""

LANES = 128  # of a register: lengths and widths are multiples of it


def extra_width(head_dim: int) -> int:
  """Channels that splash attention adds to a head, to tell conversations apart: up to
  the next multiple of LANES that leaves at least half of them (models/splash.py)."""
  width = -head_dim % LANES
  return width if width >= LANES // 2 else width + LANES


def max_segments(head_dim: int) -> int:
  """The highest segment number of a row with splash attention: at least 63."""
  return extra_width(head_dim) - 1
