"""What one chip can do: dense bf16 peak, memory, links. One table, sources below.

TPU numbers: Google Cloud's system pages and the JAX scaling book (ICI: one direction of
one link; DCN: a chip's share of its host's network). GPU numbers: NVIDIA's data sheets,
dense, SXM parts; "ICI" there is NVLink, one direction, all links of a GPU together.
`hbm_bytes` is what a program may use: XLA:TPU keeps the rest (seen in its own errors).
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One device as JAX sees it; bandwidths in bytes/s. v4 and tpu7x: see the table."""

  name: str
  kinds: tuple[str, ...]  # `device.device_kind`, lower case, how it starts
  peak_flops: float  # bf16
  hbm_bytes: float
  hbm_bandwidth: float
  ici_bandwidth: float  # of one link, one direction
  ici_axes: int = 2  # dimensions of the torus
  ring_from: int = 16  # an axis of at least so many chips is closed to a ring
  dcn_bandwidth: float = 3.1e9
  devices: int = 1  # that JAX sees of one chip


# fmt: off
CHIPS = (
  # One device is half a chip here: 275 TFLOP/s, 32 GiB and 1.2 TB/s a chip.
  Chip(name="v4", kinds=("tpu v4",), peak_flops=137.5e12, hbm_bytes=15.48 * GIB,
       hbm_bandwidth=6e11, devices=2, ici_bandwidth=4.5e10, ici_axes=3, ring_from=4),
  Chip(name="v5e", kinds=("tpu v5 lite", "tpu v5e"), peak_flops=197e12,
       hbm_bytes=15.75 * GIB, hbm_bandwidth=8.1e11, ici_bandwidth=4.5e10),
  Chip(name="v5p", kinds=("tpu v5p", "tpu v5"), peak_flops=459e12,
       hbm_bytes=95.74 * GIB, hbm_bandwidth=2.77e12, ici_bandwidth=9e10, ici_axes=3,
       ring_from=4, dcn_bandwidth=6.25e9),
  Chip(name="v6e", kinds=("tpu v6 lite", "tpu v6e"), peak_flops=918e12,
       hbm_bytes=31.25 * GIB, hbm_bandwidth=1.64e12, ici_bandwidth=9e10,
       dcn_bandwidth=6.25e9),
  # One device is half a chip: 2,307 TFLOP/s, 192 GB and 7.4 TB/s a chip.
  Chip(name="tpu7x", kinds=("tpu7x",), peak_flops=1153.5e12, hbm_bytes=94.75 * GIB,
       hbm_bandwidth=3.69e12, devices=2, ici_bandwidth=9e10, ici_axes=3, ring_from=4,
       dcn_bandwidth=6.25e9),
  Chip(name="A100", kinds=("nvidia a100",), peak_flops=312e12, hbm_bytes=80e9,
       hbm_bandwidth=2.04e12, ici_bandwidth=3e11, ici_axes=1, ring_from=2,
       dcn_bandwidth=2.5e10),
  Chip(name="H200", kinds=("nvidia h200",), peak_flops=989e12, hbm_bytes=141e9,
       hbm_bandwidth=4.8e12, ici_bandwidth=4.5e11, ici_axes=1, ring_from=2,
       dcn_bandwidth=5e10),
  Chip(name="H100", kinds=("nvidia h100",), peak_flops=989e12, hbm_bytes=80e9,
       hbm_bandwidth=3.35e12, ici_bandwidth=4.5e11, ici_axes=1, ring_from=2,
       dcn_bandwidth=5e10),
)
# fmt: on


def find(device_kind) -> Chip | None:
  """The Chip of a `device.device_kind`, or None when the table does not have it."""
  kind = device_kind.lower()
  return next((c for c in CHIPS if kind.startswith(c.kinds)), None)
