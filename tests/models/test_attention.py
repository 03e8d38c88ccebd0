"""attend(), rotary positions, the segment mask and the cache, on their own."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.model import ATTENTIONS, RopeScaling
from miras_jax.config.variants import LLAMA_VARIANTS
from miras_jax.models import attention


def qkv(seed=0, *, T=9, S=9, N=6, K=2, H=8):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = ((2, T, N, H), (2, S, K, H), (2, S, K, H))
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def attend_numpy(q_BTNH, k_BSKH, v_BSKH, mask_BTS):
  """One head and one query at a time, float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_BTNH, k_BSKH, v_BSKH))
  group = q.shape[2] // k.shape[2]
  out = np.zeros_like(q)
  for b, t, n in np.ndindex(q.shape[:3]):
    seen = np.asarray(mask_BTS[b, t])
    logits = k[b, seen, n // group] @ q[b, t, n] / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max())
    out[b, t, n] = weights / weights.sum() @ v[b, seen, n // group]
  return out


@pytest.fixture
def causal_BTT():
  return attention.segment_mask(jnp.ones((2, 9), jnp.int32))


@pytest.mark.parametrize("implementation", ["xla", "blocked", "jax"])
def test_attend_is_softmax_attention_with_shared_key_heads(
  implementation, causal_BTT, monkeypatch
):
  monkeypatch.setattr(attention, "MIN_BLOCK", 4)  # so that "blocked" has uneven blocks
  q, k, v = qkv()
  out = attention.attend(
    q, k, v, mask=causal_BTT[:, None], implementation=implementation
  )
  np.testing.assert_allclose(out, attend_numpy(q, k, v, causal_BTT), atol=1e-5)


def test_attend_without_mask_sees_every_key():
  q, k, v = qkv(T=3, S=5)
  expected = attend_numpy(q, k, v, np.ones((2, 3, 5), bool))
  np.testing.assert_allclose(attention.attend(q, k, v), expected, atol=1e-5)


def test_a_query_that_sees_nothing_has_finite_output_and_gradient():
  q, k, v = qkv()
  mask = jnp.zeros((2, 1, 9, 9), bool)
  grad = jax.grad(lambda q: attention.attend(q, k, v, mask=mask).sum())(q)
  assert np.isfinite(attention.attend(q, k, v, mask=mask)).all()
  assert np.isfinite(grad).all()


def test_softmax_runs_in_float32_under_half_precision_inputs():
  q, k, v = (x.astype(jnp.bfloat16) for x in qkv())
  jaxpr = str(jax.make_jaxpr(attention.attend)(q, k, v))
  exponentials = [line for line in jaxpr.splitlines() if "= exp " in line]
  assert exponentials and all("f32" in line for line in exponentials)
  assert attention.attend(q, k, v).dtype == jnp.bfloat16


def test_unknown_implementation_error_names_the_accepted_ones():
  with pytest.raises(ValueError, match="flash.*" + ".*".join(ATTENTIONS)):
    attention.attend(*qkv(), implementation="flash")


def test_head_counts_that_do_not_divide_are_an_error():
  with pytest.raises(ValueError, match="num_heads=6.*num_kv_heads=4"):
    attention.attend(*qkv(K=4))


def test_blocked_refuses_a_cache_shaped_call():
  with pytest.raises(ValueError, match="T=3 == S=5"):
    attention.attend(
      *qkv(T=3, S=5), mask=jnp.ones((1, 1, 3, 5), bool), implementation="blocked"
    )


def test_segment_mask_lets_packed_conversations_share_the_prefix_only():
  # Prefix 1 1, conversations 2 2 and 3, padding 0.
  mask_TT = attention.segment_mask(jnp.array([[1, 1, 2, 2, 3, 0]]))[0]
  expected = np.array(
    [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0, 0],
      [1, 1, 1, 1, 0, 0],
      [1, 1, 0, 0, 1, 0],
      [1, 1, 0, 0, 0, 0],
    ],
    bool,
  )
  np.testing.assert_array_equal(mask_TT, expected)


def test_rope_is_a_complex_rotation_of_half_split_pairs():
  x = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
  positions = jnp.array([[0, 1, 5, 300]])
  out = attention.rope(x, *attention.rope_table(positions, 8, theta=10_000.0))
  angle_TF = np.asarray(positions)[0, :, None] * 10_000.0 ** (-np.arange(4) / 4)
  pairs_TNF = np.asarray(x)[0, ..., :4] + 1j * np.asarray(x)[0, ..., 4:]
  expected = pairs_TNF * np.exp(1j * angle_TF)[:, None]
  np.testing.assert_allclose(out[0, ..., :4], expected.real, atol=1e-4)
  np.testing.assert_allclose(out[0, ..., 4:], expected.imag, atol=1e-4)


def test_rope_keeps_scores_under_a_common_shift_of_positions():
  q, k, _ = qkv(N=2, K=2)
  positions = jnp.broadcast_to(jnp.arange(9), (2, 9))

  def scores(shift):
    table = attention.rope_table(positions + shift, 8, theta=10_000.0)
    return jnp.einsum("BTNH,BSNH->BNTS", *(attention.rope(x, *table) for x in (q, k)))

  np.testing.assert_allclose(scores(0), scores(17), atol=1e-4)


def test_linear_scaling_divides_positions():
  scaling = RopeScaling(kind="linear", factor=4.0)
  scaled = attention.rope_table(jnp.array([[40]]), 8, theta=1e4, scaling=scaling)
  plain = attention.rope_table(jnp.array([[10]]), 8, theta=1e4)
  np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_llama3_scaling_follows_the_published_rule_wavelength_by_wavelength():
  cfg = LLAMA_VARIANTS["llama3.1-8b"]
  s = cfg.rope_scaling
  frequency = cfg.rope_theta ** (-np.arange(0, 128, 2) / 128)
  expected = []
  for f in frequency:  # as apply_scaling() of meta-llama's model.py
    wavelength = 2 * np.pi / f
    if wavelength < s.original_max_positions / s.high_freq_factor:
      expected.append(f)
    elif wavelength > s.original_max_positions / s.low_freq_factor:
      expected.append(f / s.factor)
    else:
      smooth = (s.original_max_positions / wavelength - s.low_freq_factor) / (
        s.high_freq_factor - s.low_freq_factor
      )
      expected.append((1 - smooth) * f / s.factor + smooth * f)
  table = attention.rope_table(jnp.array([[1]]), 128, theta=cfg.rope_theta, scaling=s)
  np.testing.assert_allclose(table[1][0, 0], np.sin(expected), rtol=1e-5)


def small_cache():
  cfg = LLAMA_VARIANTS["tinyllama-1.1b"]
  return attention.init_cache(cfg, batch=2, length=5)


def test_init_cache_is_empty_with_one_slot_per_position_and_key_head():
  cache = small_cache()
  assert cache.k_LBKSH.shape == cache.v_LBKSH.shape == (22, 2, 4, 5, 64)
  assert not cache.k_LBKSH.any() and not cache.v_LBKSH.any()


def test_write_cache_touches_one_layer_at_each_row_s_own_slots():
  new = jnp.ones((2, 2, 4, 64))
  cache = attention.write_cache(small_cache(), 3, new, 2 * new, jnp.array([0, 2]))
  slots_BS = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
  np.testing.assert_array_equal(cache.k_LBKSH[3, :, 0, :, 0], slots_BS)
  np.testing.assert_array_equal(cache.v_LBKSH[3, :, 0, :, 0], 2 * slots_BS)
  assert not cache.k_LBKSH[:3].any() and not cache.k_LBKSH[4:].any()


def test_write_cache_drops_what_lies_past_the_end():
  new = jnp.ones((2, 2, 4, 64))
  cache = attention.write_cache(small_cache(), 0, new, new, jnp.array([4, 5]))
  expected = [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
  np.testing.assert_array_equal(cache.k_LBKSH[0, :, 0, :, 0], expected)


def test_cache_mask_shows_each_new_token_the_slots_up_to_its_own():
  mask = attention.cache_mask(jnp.array([0, 2]), num_new=2, length=5)
  expected = [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]]
  np.testing.assert_array_equal(mask, np.array(expected, bool))


def test_a_token_of_one_row_copies_no_cache():
  cfg = LLAMA_VARIANTS["tinyllama-1.1b"]
  cache = attention.init_cache(dataclasses.replace(cfg, depth=1), 1, 96)

  def add(i, carry):
    cache, x = carry
    k = x[:, :, :4]
    cache = attention.write_cache(cache, 0, k, k, jnp.full(1, i))
    mask = attention.cache_mask(jnp.full(1, i), 1, 96)[:, None]
    keys = cache.k_LBKSH[0], cache.v_LBKSH[0]
    return cache, attention.attend_heads_first(x, *keys, mask)

  @functools.partial(jax.jit, donate_argnums=0)
  def many(cache, x):
    return jax.lax.fori_loop(0, 90, add, (cache, x))

  text = many.lower(cache, jnp.ones((1, 1, 32, 64))).compile().as_text()
  assert "f32[1,1,4,96,64]" in text
  assert not re.findall(r"= f32\[1,1,4,96,64\]\S* copy\(", text)
