# ruff: noqa: E501
"""Loops, clones, groups, slices and spaces of a compiled module, on small pieces."""

import math

import pytest

from miras_jax.scale import collectives, cost, hlo
from tests.scale import snippets

MESH = {"dcn_data": 1, "data": 1, "fsdp": 4, "tensor": 2, "sequence": 1}


def found(text, mesh=None):
  return collectives.totals(collectives.find(hlo.walk(hlo.parse(text)), mesh or MESH))


def test_a_loop_runs_as_often_as_its_condition_compares():
  times = {v.instruction.name: v.times for v in hlo.walk(hlo.parse(snippets.LOOP))}
  assert (times["loop"], times["conv"]) == (1, 10)


def test_copies_of_one_collective_count_once_and_once_a_turn():
  gathers = [c for c in found(snippets.LOOP) if c["kind"] == "all-gather"]
  whole = 256 * 128 * 2
  assert gathers == [
    {"kind": "all-gather", "axis": "fsdp", "network": "ici",
     "bytes": 10 * whole * 3 // 4, "count": 10}
  ]  # fmt: skip


def test_what_a_shard_map_sends_on_one_channel_counts_each():
  groups = "channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add"
  text = f"""HloModule m

ENTRY %main (a: f32[64], b: f32[64]) -> f32[64] {{
  %a = f32[64]{{0}} parameter(0)
  %b = f32[64]{{0}} parameter(1)
  %psum.1 = f32[64]{{0}} all-reduce(%a), {groups}
  ROOT %psum.2 = f32[64]{{0}} all-reduce(%b), {groups}
}}
"""
  mesh = {"dcn_data": 1, "data": 8, "fsdp": 1, "tensor": 1, "sequence": 1}
  assert [c["bytes"] for c in found(text, mesh)] == [2 * 2 * 64 * 4 * 7 // 8]


def test_groups_are_told_as_mesh_axes_in_every_notation():
  axes = {c["axis"] for c in found(snippets.LOOP) if c["kind"] == "all-reduce"}
  assert axes == {"tensor", "fsdp"}


def test_devices_counted_in_another_order_are_followed():
  order = "mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0))"
  text = snippets.LOOP.replace("mesh['axis_0'=4,'axis_1'=2]", order)
  mesh = {"dcn_data": 1, "data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
  assert {c["axis"] for c in found(text, mesh) if c["kind"] == "all-gather"} == {"fsdp"}


def test_the_first_axis_is_the_network_between_slices():
  mesh = {"dcn_data": 2, "data": 1, "fsdp": 2, "tensor": 2, "sequence": 1}
  assert {"dcn"} == {c["network"] for c in found(snippets.LOOP, mesh)
                     if c["axis"].startswith("dcn")}  # fmt: skip


def test_traffic_between_slices_is_a_send():
  rows = found(snippets.SLICES)
  assert [(r["kind"], r["network"], r["bytes"]) for r in rows] == [
    ("all-reduce", "dcn", 1024)
  ]


@pytest.mark.parametrize(
  "kind, sent",
  [("all-gather", 75), ("all-reduce", 150), ("reduce-scatter", 75),
   ("collective-permute", 100)],
)  # fmt: skip
def test_rings_send(kind, sent):
  assert collectives.wire_bytes(kind, 100, 4) == sent


def test_products_in_loops_are_multiplied_out():
  work = cost.flops(hlo.parse(snippets.LOOP))
  assert work == {"matmul": 10 * 2 * 512 * 256 * 128, "kernels": 0}


def test_a_convolution_counts_where_input_and_kernel_meet():
  text = """HloModule m

ENTRY %main (x: f32[1,8,3], k: f32[3,3,5]) -> f32[1,8,5] {
  %x = f32[1,8,3]{2,1,0} parameter(0)
  %k = f32[3,3,5]{2,1,0} parameter(1)
  ROOT %y = f32[1,8,5]{2,1,0} convolution(%x, %k), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f
}
"""
  inside = sum(0 <= o + k - 1 < 8 for o in range(8) for k in range(3))
  assert cost.flops(hlo.parse(text))["matmul"] == 2 * inside * 3 * 5


@pytest.mark.parametrize("positions, share", [("", 1), (", %p", 2 / 3)])
def test_a_kernel_of_attention_counts_the_tiles_that_its_mask_lets_it_visit(
  positions, share
):
  text = f"""HloModule m

ENTRY %main (q: bf16[2,1536,256], v: bf16[2,1536,128], p: s32[1536,128]) -> bf16[2,1536,128] {{
  %q = bf16[2,1536,256]{{2,1,0}} parameter(0)
  %v = bf16[2,1536,128]{{2,1,0}} parameter(1)
  %p = s32[1536,128]{{1,0}} parameter(2)
  ROOT %splash_mha_fwd.1 = bf16[2,1536,128]{{2,1,0}} custom-call(%q, %q, %v{positions}), custom_call_target="tpu_custom_call"
}}
"""
  pairs = 2 * 1536 * 1536
  work = cost.flops(hlo.parse(text))
  assert work["kernels"] == pytest.approx(2 * pairs * (256 + 128) * share)


def test_a_batched_product_written_as_a_dilated_convolution_counts_as_a_product():
  text = """HloModule m

ENTRY %main (x: f32[6,16,32], k: f32[6,32,64]) -> f32[6,16,64] {
  %x = f32[6,16,32]{2,1,0} parameter(0)
  %k = f32[6,32,64]{2,1,0} parameter(1)
  ROOT %y = f32[6,16,64]{2,1,0} convolution(%x, %k), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf
}
"""  # noqa: E501
  assert cost.flops(hlo.parse(text))["matmul"] == 2 * 6 * 16 * 32 * 64


def test_a_slice_of_stacked_weights_moves_the_slice_and_chip_memory_is_free():
  copied, layer = 64 * 4, 64 * 64 * 2
  assert cost.traffic(hlo.parse(snippets.STACKED)) == copied + layer


def test_a_slice_in_a_fusion_within_a_fusion_moves_the_slice():
  layer = 64 * 64 * 2
  assert cost.traffic(hlo.parse(snippets.NESTED)) == layer + layer  # read and written


def test_layouts_tell_memory_and_tuples_their_arrays():
  shapes = hlo.parse_shapes(
    "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s32[], /*index=5*/u8[7])"
  )
  assert [(s.dtype, s.dims, s.in_hbm) for s in shapes] == [
    ("bf16", (2, 3), False), ("s32", (), True), ("u8", (7,), True)
  ]  # fmt: skip
  assert math.prod(s.bytes for s in shapes) == 12 * 4 * 7


def test_text_of_something_else_is_refused():
  with pytest.raises(ValueError, match="ENTRY"):
    hlo.parse("hello")
