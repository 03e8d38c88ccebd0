"""The decoder against transformers: one model of each family, one row padded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_jax.convert import hf
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.models.attention import segment_mask
from miras_jax.models.llama import Llama
from tests.live import reference
from tests.live.reference import torch

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

BASE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, vocab_size=61, max_position_embeddings=256,
            rms_norm_eps=1e-5)  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
# The published factors around a training length so short that 40 positions see all
# three of its bands.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1,
          "high_freq_factor": 4, "original_max_position_embeddings": 24}  # fmt: skip
B, T, SHORT = 2, 40, 29


def port_inputs(width, length, mask=None):
  """(embeddings of zero, positions, mask) of B rows."""
  mask = np.ones((B, length), int) if mask is None else mask
  positions_BT = jnp.broadcast_to(jnp.arange(length), (B, length))
  x_BTD = jnp.zeros((B, length, width))
  return x_BTD, positions_BT, segment_mask(jnp.asarray(mask))


def ported(model, ours, kind, inputs):
  """Our parameters of a torch model, by the table `kind`."""
  init = functools.partial(ours.init, jax.random.key(0), *inputs)
  return reference.ported(model, KINDS[kind], init, part="llm")


def check(kind, *, seed=0, **fields):
  """Hidden states and logits of a random model, converted by our tables."""
  config_class = getattr(transformers, f"{kind}Config")
  config = config_class(**BASE | fields, attn_implementation="eager")
  model = getattr(transformers, f"{kind}ForCausalLM")(config)
  reference.randomised(model, seed)
  ids = np.random.default_rng(seed).integers(3, config.vocab_size, (B, T))
  mask = np.ones((B, T), int)
  mask[1, SHORT:] = 0
  with torch.no_grad():
    want = model(
      torch.tensor(ids), attention_mask=torch.tensor(mask), output_hidden_states=True
    )

  cfg = hf.llama_config(config.to_dict(), path="config.json")
  tied = bool(config.tie_word_embeddings)
  ours, inputs = Llama(cfg), port_inputs(cfg.width, T, mask)
  params = ported(model, ours, "llama-tied" if tied else "llama", inputs)

  @jax.jit
  def run(params, ids):
    x_BTD = ours.apply({"params": params}, ids, method="embed")
    hidden = ours.apply({"params": params}, x_BTD, *inputs[1:])
    return hidden, ours.apply({"params": params}, hidden, method="logits")

  hidden, logits = run(params, ids)
  for row, length in ((0, T), (1, SHORT)):
    reference.close(hidden[row, :length], want.hidden_states[-1][row, :length])
    reference.close(logits[row, :length], want.logits[row, :length])
  return cfg


@pytest.mark.parametrize(
  "kind, fields",
  [
    ("Llama", {"num_key_value_heads": 4}),
    ("Llama", {"num_key_value_heads": 2, "head_dim": 6}),
    ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("Llama", {"num_key_value_heads": 2, "rope_parameters": LINEAR}),
    ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    ("Mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    ("Qwen2", {"num_key_value_heads": 2}),
    ("Qwen3", {"num_key_value_heads": 2, "head_dim": 6}),
    ("Gemma", {"num_key_value_heads": 2, "head_dim": 10}),
  ],
  ids=["mha", "gqa", "tied", "linear", "llama3", "mistral", "qwen2", "qwen3", "gemma"],
)
def test_the_decoder_is_that_of_transformers(kind, fields):
  cfg = check(kind, **fields)
  assert cfg.num_kv_heads == fields["num_key_value_heads"]
  assert cfg.qkv_bias == (kind == "Qwen2")
  assert cfg.qk_norm == (kind == "Qwen3")
  scaling = fields.get("rope_parameters")
  assert (cfg.rope_scaling and cfg.rope_scaling.kind) == (
    scaling and scaling["rope_type"]
  )


def test_the_gradient_of_qwen3_s_head_norms_is_that_of_torch():
  config = transformers.Qwen3Config(
    **BASE | {"num_hidden_layers": 1}, num_key_value_heads=2, head_dim=6,
    attn_implementation="eager",
  )  # fmt: skip
  model = reference.randomised(transformers.Qwen3ForCausalLM(config), 0)
  ids = np.random.default_rng(0).integers(3, config.vocab_size, (B, 9))
  model(torch.tensor(ids)).logits.square().mean().backward()

  ours, inputs = Llama(hf.llama_config(config.to_dict(), path="x")), port_inputs(32, 9)
  params = ported(model, ours, "llama", inputs)

  @jax.jit
  @jax.grad
  def gradient(params):
    x_BTD = ours.apply({"params": params}, ids, method="embed")
    hidden = ours.apply({"params": params}, x_BTD, *inputs[1:])
    return jnp.square(ours.apply({"params": params}, hidden, method="logits")).mean()

  found = gradient(params)["layers"]["attn"]
  attn = model.model.layers[0].self_attn
  for name in ("q_norm", "k_norm"):
    want = getattr(attn, name).weight.grad
    reference.close(found[name]["scale"][0], want, tolerance=1e-5)
    assert float(want.abs().max()) > 1e-3


@settings(max_examples=2, deadline=None, derandomize=True)
@given(
  kind=st.sampled_from(["Llama", "Qwen2", "Qwen3"]),
  groups=st.sampled_from([1, 2, 3]),
  kv_heads=st.sampled_from([1, 2]),
  head_dim=st.sampled_from([4, 10]),
  depth=st.integers(1, 3),
  theta=st.sampled_from([1e3, 1e6]),
  eps=st.sampled_from([1e-6, 1e-3]),
  seed=st.integers(0, 9),
)
def test_random_decoders(kind, groups, kv_heads, head_dim, depth, theta, eps, seed):
  heads = groups * kv_heads
  width = (
    {"hidden_size": heads * head_dim} if kind == "Qwen2" else {"head_dim": head_dim}
  )
  rope = {"rope_type": "default", "rope_theta": theta}
  check(
    kind, seed=seed, num_attention_heads=heads, num_key_value_heads=kv_heads,
    num_hidden_layers=depth, rms_norm_eps=eps, rope_parameters=rope, **width,
  )  # fmt: skip
