"""Devices that are there get the name that their slice has elsewhere."""

import pytest

from miras_jax.planning import topology
from tests.planning.devices import Device, slice_of


@pytest.mark.parametrize(
  "devices, name",
  [
    (slice_of("TPU v5 lite", 4, 4), "v5e:4x4"),
    (slice_of("TPU v6 lite", 2, 4), "v6e:2x4"),
    (slice_of("TPU v5p", 2, 2, 4), "v5p:2x2x4"),
    (slice_of("TPU v5 lite", 4, 4, slices=2), "v5e:4x4x2"),
    ([Device("NVIDIA H100 80GB HBM3")] * 8, "h100:8"),
    ([Device("cpu")] * 8, "8 x cpu"),
  ],
)
def test_devices_have_the_name_of_their_slice(devices, name):
  assert topology.label(devices) == name
  if ":" in name:
    assert topology.of_devices(devices) == topology.hardware(name)
