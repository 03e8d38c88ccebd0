"""How a fresh state is lowered for a GPU, seen without one."""

import re

import jax
import jax.numpy as jnp

from miras_jax.training import initial_state

FLAG = "jax_threefry_gpu_kernel_lowering"
SIZES = (3, 5, 8)


def draw(key):
  keys = jax.random.split(key, len(SIZES))
  return [jax.random.normal(k, (n, n)) for k, n in zip(keys, SIZES, strict=True)]


def lowered_for_cuda():
  return jax.jit(draw).trace(jax.random.key(0)).lower(lowering_platforms=("cuda",))


def test_random_bits_of_a_gpu_come_from_one_kernel_an_array():
  plain = lowered_for_cuda().as_text()
  with initial_state.short_threefry():
    short = lowered_for_cuda().as_text()
  kernel = re.compile(r"custom_call @cu_threefry2x32_ffi")
  assert not kernel.search(plain)
  assert len(kernel.findall(short)) >= len(SIZES)
  assert short.count("\n") < plain.count("\n") / 2


def test_only_the_initial_state_of_a_gpu_is_lowered_so(monkeypatch):
  seen = []

  def make(x):
    seen.append(getattr(jax.config, FLAG))
    return jnp.ones(2) * x

  assert initial_state.run_once(make, None, 1).tolist() == [1, 1]
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert initial_state.run_once(make, None, 2).tolist() == [2, 2]
  assert seen == [False, True]
  assert getattr(jax.config, FLAG) is False


def test_an_error_leaves_the_flag_as_it_was():
  try:
    with initial_state.short_threefry():
      raise RuntimeError
  except RuntimeError:
    pass
  assert getattr(jax.config, FLAG) is False
