"""Splash attention: Pallas kernels for TPU that never hold a T x T array.

B batch, T tokens, N query heads, K key heads, H head width, E extra head width.

The kernel's own segment ids know equality only, and a packed row needs more: every
conversation sees the prefix, segment 1, too. So the segments ride in extra channels of
queries and keys whose products push what must not be seen to -FAR: exact, since exp()
of that is 0, with exact gradients, and one kernel call for rows of either kind. A head
of 64 channels is padded to 128 by the hardware anyway; one of 128 pays half as much
again for the attention products, about 2 % of a 7B step at 2,048 tokens.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from miras_jax.config.lanes import LANES, extra_width
from miras_jax.models import head_layout

BLOCKS = (512, 384, 256, 128)  # queries and keys of a tile, the first that divides T
FAR = 2.0**14  # exact in bfloat16; far below any logit, far above -inf
BATCH_AXES, HEAD_AXIS = ("dcn_data", "data", "fsdp"), "tensor"


def attend_splash(q_BTNH, k_BTKH, v_BTKH, segments_BT, *, rotary=None, interpret=None):
  """Causal attention in packed or single rows (`attention.segment_mask`), [B, T, N, H].

  rotary: (cosine, sine), each [B, T, H / 2], of positions by which queries and keys are
  still to be rotated.

  Under an active mesh each device works on its part: rows are cut along the data axes,
  heads along `tensor`. `interpret` runs the kernels without a TPU, slowly; the default
  does so wherever the devices are none. Segment numbers go up to
  `max_segments(H)`, which `RunConfig` holds `data.pack` to.

  Raises ValueError when the heads do not divide over `tensor`.
  """
  if interpret is None:
    interpret = not on_tpu()
  attend = functools.partial(_attend_local, interpret=interpret)
  arrays = (q_BTNH, k_BTKH, v_BTKH, segments_BT, *(rotary or ()))
  return _on_each_device(attend, arrays, k_BTKH.shape[2], heads_at=2)


def attend_all(q_BNTF, k_BNSF, v_BNSE, *, interpret=None):
  """Attention of every query on every key, [B, N, T, E]: no scale, no mask.

  T and S are multiples of LANES. F and E may differ, and need not be multiples.
  """
  if interpret is None:
    interpret = not on_tpu()

  def attend(q_BNTF, k_BNSF, v_BNSE):
    shape = q_BNTF.shape[2], k_BNSF.shape[2]
    mask = splash_attention.FullMask(shape)
    kernel = _kernel(mask, q_BNTF.shape[1], interpret)
    return jax.vmap(kernel)(q_BNTF, k_BNSF, v_BNSE)

  arrays = (q_BNTF, k_BNSF, v_BNSE)
  return _on_each_device(attend, arrays, q_BNTF.shape[1], heads_at=1)


def _on_each_device(attend, arrays, num_heads, *, heads_at):
  """`attend` on each device's rows and heads; arrays without heads have fewer axes."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return attend(*arrays)
  if not heads_divide(num_heads):
    raise ValueError(
      f"splash attention: {num_heads} key heads do not divide over"
      f" tensor={mesh.shape[HEAD_AXIS]}"
    )
  rows = _row_axes(mesh, len(arrays[0]))
  spec = [rows, None, None, None]
  spec[heads_at] = HEAD_AXIS if HEAD_AXIS in mesh.shape else None
  return jax.shard_map(
    attend,
    in_specs=tuple(P(*spec) if x.ndim == 4 else P(rows) for x in arrays),
    out_specs=P(*spec),
    # Inside another one, what that has left whole.
    axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
    check_vma=False,
  )(*arrays)


def heads_divide(num_heads):
  """Whether the mesh that is set, if any, cuts so many heads into equal parts."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or num_heads % mesh.shape.get(HEAD_AXIS, 1) == 0


def _attend_local(q_BTNH, k_BTKH, v_BTKH, segments_BT, *rotary, interpret):
  """One device's rows and heads."""
  B, T, N, H = q_BTNH.shape
  q_extra_BTE, k_extra_BTE = _segment_channels(
    segments_BT, extra_width(H), q_BTNH.dtype
  )
  if head_layout.fits(T, H) and rotary:

    def split(x_BTNH, table, extra_BTE=None):
      N, x_BTD = x_BTNH.shape[2], x_BTNH.reshape(B, T, -1)
      return head_layout.split_heads(x_BTD, table, extra_BTE, N, interpret)

    q = split(q_BTNH, head_layout.rotation(*rotary, scale=H**-0.5), q_extra_BTE)
    k = split(k_BTKH, head_layout.rotation(*rotary), k_extra_BTE)
    v = split(v_BTKH, None)
  else:
    if rotary:
      q_BTNH, k_BTKH = rope(q_BTNH, *rotary), rope(k_BTKH, *rotary)
    q = _heads_first(_widen(q_BTNH * H**-0.5, q_extra_BTE))
    k, v = _heads_first(_widen(k_BTKH, k_extra_BTE)), _heads_first(v_BTKH)
  causal = splash_attention.CausalMask((q.shape[2], q.shape[2]))
  out_BNTH = jax.vmap(_kernel(causal, N, interpret))(q, k, v)
  if head_layout.fits(T, H) and rotary:
    return head_layout.join_heads(out_BNTH, interpret).reshape(B, T, N, H)
  return out_BNTH[:, :, :T].transpose(0, 2, 1, 3)


def rope(x_BTNH, cos_BTF, sin_BTF):
  """Rotates pairs (i, i + H/2), the half-split order of published HF checkpoints."""
  cos_BT1F, sin_BT1F = cos_BTF[:, :, None], sin_BTF[:, :, None]
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  out = (first * cos_BT1F - second * sin_BT1F, second * cos_BT1F + first * sin_BT1F)
  return jnp.concatenate(out, axis=-1).astype(x_BTNH.dtype)


def _widen(x_BTNH, extra_BTE):
  """Extra channels behind those of every head."""
  shape = (*x_BTNH.shape[:3], extra_BTE.shape[-1])
  extra = jnp.broadcast_to(extra_BTE[:, :, None], shape)
  return jnp.concatenate([x_BTNH, extra], axis=-1)


def _segment_channels(segments_BT, width, dtype):
  """(queries', keys') channels: their product is -FAR where a segment is not seen.

  A key of segment s has a 1 in channel s, the prefix (1) none; a query has -FAR in
  every channel but its own, and padding (0) is nobody's own.
  """
  channel_E = jnp.arange(width)
  own_BTE = segments_BT[..., None] == channel_E
  query_BTE = jnp.where(own_BTE & (channel_E > 0), 0.0, -FAR)
  key_BTE = own_BTE & (channel_E != 1)
  return query_BTE.astype(dtype), key_BTE.astype(dtype)


def _heads_first(x_BTNH):
  """[B, T, N, H] -> [B, N, T', H], T padded to whole tiles: later keys, never seen."""
  x_BNTH = x_BTNH.transpose(0, 2, 1, 3)
  return jnp.pad(x_BNTH, ((0, 0), (0, 0), (0, -x_BTNH.shape[1] % LANES), (0, 0)))


def _kernel(mask, num_heads, interpret):
  block = next(b for b in BLOCKS if all(n % b == 0 for n in mask.shape))
  names = (
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
    "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
  )  # fmt: skip
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * num_heads),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=splash_attention.BlockSizes(**dict.fromkeys(names, block)),
    interpret=interpret,
  )


def _row_axes(mesh, rows):
  """The data axes of the mesh, unless they do not divide the rows: then all see all.

  With them every axis of one device: over an axis that no spec names, a backward pass
  adds up, and that of one device is copied for it.
  """
  whole = [a for a in mesh.axis_names if a not in mesh.manual_axes]
  axes = [a for a in whole if a in BATCH_AXES]
  if rows % math.prod(mesh.shape[a] for a in axes):
    axes = []
  idle = [a for a in whole if mesh.shape[a] == 1 and a not in (*axes, HEAD_AXIS)]
  return (*axes, *idle) or None


def on_tpu():
  """Whether the program being traced is for TPUs: those of the mesh, else our own."""
  device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
  if device is not None:
    return device.device_kind.upper().startswith("TPU")
  return jax.default_backend() == "tpu"
