"""Reference language models in our parameter tree: golden weights, adapters, [OBJ]
attention, and stories260K.

Published linear weights are (out, in); ours are (in, out).
"""

import functools
import json
import struct

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from miras_jax.config import LlamaConfig, SegPromptConfig
from tests.shared_data import DATA, GOLDEN

ATTENTION = {
  "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
  "v_proj": "self_attn.v_proj", "o_proj": "self_attn.o_proj"}
MLP = {name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")}


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


def llama_config(*, lora=False):
  llm, adapter = config()["llm"], config()["lora"]
  options = {}
  if lora:
    targets = {t.rsplit(".", 1)[-1] for t in adapter["target_modules"]}
    options = {
      "lora_rank": adapter["r"], "lora_alpha": adapter["alpha"],
      "lora_dropout": adapter["dropout"], "lora_targets": tuple(sorted(targets))}
  return LlamaConfig(
    width=llm["hidden_size"], mlp_width=llm["intermediate_size"],
    depth=llm["num_hidden_layers"], num_heads=llm["num_attention_heads"],
    num_kv_heads=llm["num_key_value_heads"], head_dim=llm["head_dim"],
    vocab_size=llm["vocab_size"], rope_theta=llm["rope_theta"],
    norm_eps=llm["rms_norm_eps"], qkv_bias=llm["attention_bias"],
    tie_embeddings=llm["tie_word_embeddings"], **options)


def _stack(source, pattern):
  depth = config()["llm"]["num_hidden_layers"]
  stacked = np.stack([source[pattern.format(i)] for i in range(depth)])
  return stacked.swapaxes(1, 2) if stacked.ndim == 3 else stacked


def llama_params(*, lora=False):
  """Our `llm/...` subtree, with adapters on request."""
  source = weights()

  def layer(name):
    return _stack(source, "model.layers.{}." + name + ".weight")

  layers = {
    "attn": {ours: {"kernel": layer(name)} for ours, name in ATTENTION.items()},
    "mlp": {ours: {"kernel": layer(name)} for ours, name in MLP.items()},
    "input_norm": {"scale": layer("input_layernorm")},
    "post_attn_norm": {"scale": layer("post_attention_layernorm")},
  }
  if lora:
    for name in llama_config(lora=True).lora_targets:
      layers["attn"][name] |= _adapter(name)
  return {
    "embed": {"embedding": source["model.embed_tokens.weight"]},
    "layers": layers,
    "final_norm": {"scale": source["model.norm.weight"]},
    "lm_head": {"kernel": source["lm_head.weight"].T},
  }


def _adapter(name):
  path = "base_model.model.model.layers.{}.self_attn." + name
  source = weights("lora_adapter")
  return {
    "lora_a": _stack(source, path + ".lora_A.default.weight"),
    "lora_b": _stack(source, path + ".lora_B.default.weight"),
  }


def seg_prompt_config(alignment):
  return SegPromptConfig(
    out_width=config()["text_hidden_fcs"]["out_dim"],
    num_heads=config()["obj_cross_attention"]["num_heads"],
    seg_state="predict", alignment=alignment)


def _linear(source, prefix):
  return {"kernel": source[prefix + ".weight"].T, "bias": source[prefix + ".bias"]}


def seg_prompt_params(alignment):
  """Our `seg_prompt/...` subtree."""
  source = weights()
  params = {
    "text_fc1": _linear(source, "model.text_hidden_fcs.0.0"),
    "text_fc2": _linear(source, "model.text_hidden_fcs.0.2")}
  if alignment != "none":
    params["align"] = align_params()
  return params


def align_params():
  """torch's MultiheadAttention stacks q, k, v rows in one weight."""
  source = weights("obj_cross_attention")
  kernels = np.split(source["multihead_attn.in_proj_weight"], 3)
  biases = np.split(source["multihead_attn.in_proj_bias"], 3)
  params = {
    f"{name}_proj": {"kernel": kernel.T, "bias": bias}
    for name, kernel, bias in zip("qkv", kernels, biases, strict=True)}
  params["out_proj"] = _linear(source, "multihead_attn.out_proj")
  params["linear"] = _linear(source, "linear")
  return params


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
      ids_BT, mask_BT, arrays("outputs.npz")["image_tokens"], strict=True):
    ids = ids[mask]
    at = placeholder(ids)
    rows.append(np.concatenate([table_VD[ids[:at]], image_ND, table_VD[ids[at + 1:]]]))
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
    "attn": attn, "mlp": mlp, "input_norm": {"scale": norm1},
    "post_attn_norm": {"scale": norm2}}
  params = {
    "embed": {"embedding": embed}, "layers": layers, "final_norm": {"scale": take(D)}}
  cfg = LlamaConfig(
    width=D, mlp_width=F, depth=L, num_heads=N, num_kv_heads=K, head_dim=H,
    vocab_size=V, tie_embeddings=True)
  return cfg, params
