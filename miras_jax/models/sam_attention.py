"""Attention over a grid with decomposed relative positions, in several exact forms.

SAM adds `q . rel_h[rows of both] + q . rel_w[columns of both]` to each logit.
As an array that bias is N x T x S numbers, in whose place a kernel for long rows cannot
stand. Folded, it is part of the product: the query is extended by its dot products with
the rows' and the columns' vectors, the key by the one-hots of its row and column. In
half precision each of these products is a sum of two numbers of that precision, a high
and a low part, so that nothing of a float32 bias is lost that matters.

Measured by the compiler (docs/scaling.md): one global layer of ViT-H at 1,024 pixels
moves 10.3 GiB with the bias added and 0.29 GiB folded into a kernel.

B images or windows, H W rows and columns of the patch grid (or of one window),
T = H * W queries, K J rows and columns of the keys on the same grid, S = K * J keys,
N heads, E head width, F folded width, R query rows at a time.
"""

import jax
import jax.numpy as jnp

from miras_jax.config.lanes import LANES
from miras_jax.models import splash

# Attention logits of one image held at a time, in float32 numbers (128 MiB). Past this
# a layer without a kernel works on a few query rows after another: 8 of 64 for ViT-H.
MAX_LOGITS = 2**25
LONG = 1024  # queries from which a kernel is worth its call
FORMS = ("auto", "bias", "folded", "splash", "cudnn")


def attend_grid(q_BNHWE, k_BNSE, v_BNSE, rel_HKE, rel_WJE, form="auto"):
  """Softmax attention with the bias of relative positions; returns out_BNHWE.

  rel_HKE, rel_WJE: vectors between rows and between columns. form:
    bias    the bias added to float32 logits, a few query rows at a time when large
    folded  queries and keys extended, plain products
    splash  the same in Pallas kernels for TPU, interpreted elsewhere; T of LANES
    cudnn   the same through cuDNN: half precision, Hopper or later
    auto    on TPU splash where rows are long, else folded; elsewhere bias
  """
  if form == "auto":
    form = _usual(q_BNHWE.shape)
  if form == "bias":
    return attend_rows(q_BNHWE, k_BNSE, v_BNSE, rel_HKE, rel_WJE)
  # cuDNN takes heads of 256 channels at most, which leaves no room for low parts.
  parts = 1 if form == "cudnn" or q_BNHWE.dtype == jnp.float32 else 2
  q_BNTF, k_BNSF = fold(q_BNHWE, k_BNSE, rel_HKE, rel_WJE, parts)
  attend = {
    "folded": _attend_plain, "splash": splash.attend_all, "cudnn": _attend_cudnn
  }[form]  # fmt: skip
  return attend(q_BNTF, k_BNSF, v_BNSE).reshape(q_BNHWE.shape)


def cudnn_takes(dtype) -> bool:
  """Whether cuDNN takes "cudnn" of arrays of this type on the devices at hand.

  Folded, ViT-H's global layers have heads of 208 channels, which want Hopper; earlier
  GPUs take 128. Shapes are traced in float32, which cuDNN takes nowhere.
  """
  capability = getattr(jax.devices()[0], "compute_capability", "")
  major = capability.partition(".")[0]  # "gfx90a" and the like are none of NVIDIA's
  return jnp.dtype(dtype).itemsize == 2 and major.isdigit() and int(major) >= 9


def _usual(shape):
  """The form for queries of shape [B, N, H, W, E] on the devices at hand."""
  _, num_heads, H, W, _ = shape
  if not splash.on_tpu():
    return "bias"
  kernel = H * W >= LONG and H * W % LANES == 0 and splash.heads_divide(num_heads)
  return "splash" if kernel else "folded"


def fold(q_BNHWE, k_BNSE, rel_HKE, rel_WJE, parts):
  """(q_BNTF, k_BNSF) whose products are the scaled and biased logits.

  parts: of how many numbers of the queries' type a bias is the sum.
  """
  (B, N, H, W, E), dtype = q_BNHWE.shape, q_BNHWE.dtype
  K, J = rel_HKE.shape[1], rel_WJE.shape[1]
  queries, keys = [q_BNHWE * E**-0.5], [k_BNSE]
  row_SK = jnp.repeat(jnp.eye(K, dtype=dtype), J, axis=0)
  column_SJ = jnp.tile(jnp.eye(J, dtype=dtype), (K, 1))
  for bias, place in zip(
    biases(q_BNHWE, rel_HKE, rel_WJE), (row_SK, column_SJ), strict=True
  ):
    for _ in range(parts):
      rounded = bias.astype(dtype)
      queries.append(rounded)
      keys.append(jnp.broadcast_to(place, (*k_BNSE.shape[:3], place.shape[1])))
      bias = bias - rounded.astype(bias.dtype)
  q = jnp.concatenate(queries, axis=-1)
  return q.reshape(B, N, H * W, -1), jnp.concatenate(keys, axis=-1)


def biases(q_BNHWE, rel_HKE, rel_WJE):
  """(bias_BNHWK of rows, bias_BNHWJ of columns), float32."""
  f32 = jnp.float32
  bias_h = jnp.einsum("BNHWE,HKE->BNHWK", q_BNHWE, rel_HKE, preferred_element_type=f32)
  bias_w = jnp.einsum("BNHWE,WJE->BNHWJ", q_BNHWE, rel_WJE, preferred_element_type=f32)
  return bias_h, bias_w


def _attend_plain(q_BNTF, k_BNSF, v_BNSE):
  logits_BNTS = jnp.einsum(
    "BNTF,BNSF->BNTS", q_BNTF, k_BNSF, preferred_element_type=jnp.float32
  )
  weights_BNTS = jax.nn.softmax(logits_BNTS).astype(v_BNSE.dtype)
  return jnp.einsum("BNTS,BNSE->BNTE", weights_BNTS, v_BNSE)


def _attend_cudnn(q_BNTF, k_BNSF, v_BNSE):
  """All padded to one width, which older cuDNN wants, a multiple of 8."""
  E, F = v_BNSE.shape[-1], -(-k_BNSF.shape[-1] // 8) * 8

  def padded(x):
    return jnp.pad(x, ((0, 0),) * 3 + ((0, F - x.shape[-1]),)).transpose(0, 2, 1, 3)

  time_first = map(padded, (q_BNTF, k_BNSF, v_BNSE))
  out_BTNF = jax.nn.dot_product_attention(
    *time_first, scale=1.0, implementation="cudnn"
  )
  return out_BTNF[..., :E].transpose(0, 2, 1, 3)


def attend_rows(q_BNHWE, k_BNSE, v_BNSE, rel_HKE, rel_WJE):
  """ "bias" of `attend_grid`, a few query rows at a time when large."""
  B, N, H, W, E = q_BNHWE.shape
  R = rows_at_a_time(H, N * W * k_BNSE.shape[2])
  if R == H:
    return _attend_biased(q_BNHWE, k_BNSE, v_BNSE, rel_HKE, rel_WJE)

  # Recomputed in the backward pass: keeping the weights of every chunk would bring back
  # the memory that chunking saves.
  @jax.checkpoint
  def chunk(rows):
    q_BNRWE, rel_RKE = rows
    return _attend_biased(q_BNRWE, k_BNSE, v_BNSE, rel_RKE, rel_WJE)

  q = jnp.moveaxis(q_BNHWE.reshape(B, N, H // R, R, W, E), 2, 0)
  out = jax.lax.map(chunk, (q, rel_HKE.reshape(H // R, R, H, E)))
  return jnp.moveaxis(out, 0, 2).reshape(B, N, H, W, E)


def rows_at_a_time(height, logits_per_row):
  """The largest divisor of `height` whose logits stay within MAX_LOGITS, at least 1."""
  fits = [r for r in range(1, height + 1) if height % r == 0]
  return max([r for r in fits if r * logits_per_row <= MAX_LOGITS], default=1)


def _attend_biased(q_BNHWE, k_BNSE, v_BNSE, rel_HKE, rel_WJE):
  B, N, H, W, E = q_BNHWE.shape
  K, J = rel_HKE.shape[1], rel_WJE.shape[1]
  # Two small tensors instead of one of S per query; the sum broadcasts them.
  bias_h, bias_w = biases(q_BNHWE, rel_HKE, rel_WJE)
  q_BNTE = (q_BNHWE * E**-0.5).reshape(B, N, H * W, E)
  logits = jnp.einsum(
    "BNTE,BNSE->BNTS", q_BNTE, k_BNSE, preferred_element_type=jnp.float32
  )
  logits = logits.reshape(B, N, H, W, K, J)
  logits = logits + bias_h[..., :, None] + bias_w[..., None, :]
  weights_BNTS = jax.nn.softmax(logits.reshape(B, N, H * W, K * J))
  out = jnp.einsum("BNTS,BNSE->BNTE", weights_BNTS.astype(v_BNSE.dtype), v_BNSE)
  return out.reshape(B, N, H, W, E)
