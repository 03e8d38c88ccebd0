"""Reference language models in our parameter tree: golden weights, adapters, [OBJ]
attention, and stories260K.
"""

import dataclasses
import functools
import json
import struct

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from miras_jax.config.model import LlamaConfig
from miras_jax.parity.folder import Folder, miras_config
from miras_jax.parity.port import Port
from tests.shared_data import DATA, GOLDEN


@functools.cache
def config():
  return json.loads((GOLDEN / "config.json").read_text())


@functools.cache
def arrays(name):
  """A golden .npz as a dict."""
  with np.load(GOLDEN / name) as data:
    return dict(data)


@functools.cache
def weights(name="state_dict"):
  return load_file(GOLDEN / f"{name}.safetensors")


@functools.cache
def port():
  """The golden folder under our names: `cfg`, `params` and what trains beside them."""
  return Port(Folder(GOLDEN))


def llama_config(*, lora=False):
  return miras_config(port().folder, lora=lora).llama


def llama_params(*, lora=False):
  """Our `llm/...` subtree, with adapters on request."""
  params = port().lora_params()[1] if lora else port().params
  return params["llm"]


def seg_prompt_config(alignment):
  cfg = miras_config(port().folder, alignment="published").seg_prompt
  return dataclasses.replace(cfg, alignment=alignment)


def seg_prompt_params(alignment):
  """Our `seg_prompt/...` subtree."""
  params = port().params if alignment == "none" else port().aligned_params()[1]
  return params["seg_prompt"]


def llama_inputs(name="splice/inputs_embeds"):
  """(embeddings, positions, segments) of the main batch; padding is segment 0."""
  out = arrays("outputs.npz")
  x_BTD = spliced_obj() if name == "obj" else out[name]
  segments_BT = out["splice/attention_mask"].astype(np.int32)
  positions_BT = np.broadcast_to(np.arange(x_BTD.shape[1]), x_BTD.shape[:2])
  return jnp.asarray(x_BTD), jnp.asarray(positions_BT), jnp.asarray(segments_BT)


def spliced_obj():
  """Embeddings of `input_ids_obj` with the image tokens in the placeholder's place."""
  ids_BT = arrays("inputs.npz")["input_ids_obj"]
  mask_BT = arrays("inputs.npz")["attention_masks"]
  table_VD = weights()["model.embed_tokens.weight"]
  rows = []
  for ids, mask, image_ND in zip(
    ids_BT, mask_BT, arrays("outputs.npz")["image_tokens"], strict=True
  ):
    ids = ids[mask]
    at = placeholder(ids)
    rows.append(np.concatenate([table_VD[ids[:at]], image_ND, table_VD[ids[at + 1 :]]]))
  length = arrays("outputs.npz")["splice/attention_mask"].shape[1]
  return np.stack([np.pad(r, ((0, length - len(r)), (0, 0))) for r in rows])


def placeholder(ids):
  return int(np.flatnonzero(ids == config()["mm"]["image_token_index"])[0])


def seg_and_obj(name="input_ids_obj"):
  """(seg_pos, obj_pos, seg_valid), each [B, 1], in the spliced sequence."""
  offset = config()["mm"]["num_image_tokens"] - 1

  def find(ids, token):
    hits = np.flatnonzero(ids == config()["tokens"][token])
    return int(hits[0]) + offset if len(hits) else -1

  ids_BT = arrays("inputs.npz")[name]
  seg_B = np.array([find(ids, "SEG") for ids in ids_BT], np.int32)
  obj_B = np.array([find(ids, "OBJ") for ids in ids_BT], np.int32)
  columns = seg_B.clip(0), obj_B, (seg_B >= 0).astype(np.int32)
  return tuple(jnp.asarray(c[:, None]) for c in columns)


def stories():
  """stories260K: (config, params). Grouped queries, tied, interleaved rotary pairs."""
  raw = (DATA / "real_weights" / "stories260K.bin").read_bytes()
  D, F, L, N, K, V, _ = struct.unpack("7i", raw[:28])
  rest, H = np.frombuffer(raw[28:], np.float32), D // N

  def take(*shape):
    nonlocal rest
    head, rest = np.split(rest, [int(np.prod(shape))])
    return head.reshape(shape)

  def linear(rows, columns):
    return {"kernel": take(L, rows, columns).swapaxes(1, 2)}

  def half_split(leaf, heads):
    pairs = leaf["kernel"].reshape(L, D, heads, H // 2, 2).swapaxes(3, 4)
    return {"kernel": pairs.reshape(L, D, heads * H)}

  embed, norm1 = take(V, D), take(L, D)
  q, k = half_split(linear(D, D), N), half_split(linear(K * H, D), K)
  attn = {"q_proj": q, "k_proj": k, "v_proj": linear(K * H, D), "o_proj": linear(D, D)}
  norm2 = take(L, D)
  mlp = {"gate_proj": linear(F, D), "down_proj": linear(D, F), "up_proj": linear(F, D)}
  layers = {
    "attn": attn,
    "mlp": mlp,
    "input_norm": {"scale": norm1},
    "post_attn_norm": {"scale": norm2},
  }
  params = {
    "embed": {"embedding": embed},
    "layers": layers,
    "final_norm": {"scale": take(D)},
  }
  cfg = LlamaConfig(
    width=D,
    mlp_width=F,
    depth=L,
    num_heads=N,
    num_kv_heads=K,
    head_dim=H,
    vocab_size=V,
    tie_embeddings=True,
  )
  return cfg, params
