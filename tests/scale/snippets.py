# ruff: noqa: E501
"""Pieces of modules as XLA:TPU prints them, shortened."""

LOOP = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%start (p.0: bf16[64,128]) -> bf16[256,128] {
  %p.0 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag.1 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.0), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}, metadata={op_name="jit(step)/jvp(Miras)/q_proj"}
}

%product (p.1: bf16[64,128], p.2: bf16[512,256]) -> f32[512,128] {
  %p.1 = bf16[64,128]{1,0} parameter(0)
  %p.2 = bf16[512,256]{1,0} parameter(1)
  %ag.2 = bf16[256,128]{1,0:S(1)} all-gather(%p.1), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  ROOT %conv = f32[512,128]{1,0} convolution(%p.2, %ag.2), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[64,128], bf16[512,256])) -> (s32[], bf16[64,128], bf16[512,256]) {
  %state = (s32[]{:T(128)}, bf16[64,128]{1,0}, bf16[512,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = bf16[64,128]{1,0} get-tuple-element(%state), index=1
  %x = bf16[512,256]{1,0} get-tuple-element(%state), index=2
  %f.0 = bf16[256,128]{1,0:S(1)} fusion(%w), kind=kOutput, calls=%start
  %f.1 = f32[512,128]{1,0} fusion(%w, %x), kind=kOutput, calls=%product
  ROOT %next = (s32[], bf16[64,128], bf16[512,256]) tuple(%i, %w, %x)
}

%condition (state.1: (s32[], bf16[64,128], bf16[512,256])) -> pred[] {
  %ten = s32[]{:T(128)} constant(10)
  %state.1 = (s32[]{:T(128)}, bf16[64,128]{1,0}, bf16[512,256]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %ten), direction=LT
}

ENTRY %main (arg: (s32[], bf16[64,128], bf16[512,256]), g: f32[1024]) -> f32[1024] {
  %arg = (s32[], bf16[64,128]{1,0}, bf16[512,256]{1,0}) parameter(0)
  %g = f32[1024]{0} parameter(1)
  %loop = (s32[], bf16[64,128]{1,0}, bf16[512,256]{1,0}) while(%arg), condition=%condition, body=%body
  %reduced = f32[1024]{0} all-reduce(%g), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %away = f32[1024]{0} all-reduce(%reduced), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}
"""

SLICES = """HloModule jit_slices

ENTRY %main (x: f32[256]) -> f32[256] {
  %x = f32[256]{0} parameter(0)
  %after = token[] after-all()
  %send = (f32[256]{0}, u32[], token[]) send(%x, %after), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %y = f32[256]{0} copy(%x)
}
"""

STACKED = """HloModule jit_stacked

%slice_one (p.3: bf16[32,64,64], p.4: s32[]) -> bf16[64,64] {
  %p.3 = bf16[32,64,64]{2,1,0} parameter(0)
  %p.4 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = bf16[1,64,64]{2,1,0} dynamic-slice(%p.3, %p.4, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = bf16[64,64]{1,0} bitcast(%one)
}

ENTRY %main (w: bf16[32,64,64], i: s32[], c: f32[64]) -> bf16[64,64] {
  %w = bf16[32,64,64]{2,1,0} parameter(0)
  %i = s32[]{:S(2)} parameter(1)
  %c = f32[64]{0} parameter(2)
  %cached = f32[64]{0:S(1)} copy(%c)
  ROOT %layer = bf16[64,64]{1,0:S(1)} fusion(%w, %i), kind=kLoop, calls=%slice_one
}
"""

NESTED = """HloModule jit_nested

%slice_one (p.3: bf16[32,64,64], p.4: s32[]) -> bf16[64,64] {
  %p.3 = bf16[32,64,64]{2,1,0} parameter(0)
  %p.4 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = bf16[1,64,64]{2,1,0} dynamic-slice(%p.3, %p.4, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = bf16[64,64]{1,0} bitcast(%one)
}

%double_and_keep (p.5: bf16[32,64,64], p.6: s32[], p.7: bf16[32,64,64]) -> bf16[32,64,64] {
  %p.5 = bf16[32,64,64]{2,1,0} parameter(0)
  %p.6 = s32[] parameter(1)
  %p.7 = bf16[32,64,64]{2,1,0} parameter(2)
  %taken = bf16[64,64]{1,0} fusion(%p.5, %p.6), kind=kLoop, calls=%slice_one
  %twice = bf16[64,64]{1,0} add(%taken, %taken)
  %change = bf16[1,64,64]{2,1,0} bitcast(%twice)
  %zero.1 = s32[] constant(0)
  ROOT %kept = bf16[32,64,64]{2,1,0} dynamic-update-slice(%p.7, %change, %p.6, %zero.1, %zero.1)
}

ENTRY %main (w: bf16[32,64,64], i: s32[], out: bf16[32,64,64]) -> bf16[32,64,64] {
  %w = bf16[32,64,64]{2,1,0} parameter(0)
  %i = s32[]{:S(2)} parameter(1)
  %out = bf16[32,64,64]{2,1,0} parameter(2)
  ROOT %layer = bf16[32,64,64]{2,1,0} fusion(%w, %i, %out), kind=kLoop, calls=%double_and_keep
}
"""

OOM = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.27G of 15.75G hbm. Exceeded hbm capacity by 4.52G.

Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_name="jit(train_step)/while/body/dynamic_update_slice"
     Shape: bf16[32,16,2048,4096]{3,2,1,0}
     Unpadded size: 8.00G
     ==========================

  2. Size: 512.00M
     Shape: f32[4096,32064]{1,0}
     XLA label: fusion.7
     ==========================
"""
TEMPORARIES = (
  "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
  " temporaries (23.26G) exceeds available HBM (15.75G)"
)
