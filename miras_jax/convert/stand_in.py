"""Stand-ins for the published parts: random numbers under their names, in their files.

DST/vicuna/    Hugging Face: config.json, two .bin files, tokenizer.model
DST/clip/      Hugging Face: config.json, model.safetensors
DST/convnext/  OpenCLIP: open_clip_config.json, open_clip_pytorch_model.bin
DST/sam.pth    segment-anything

Names come from the tables that read them, shapes from a size of ours. What published
files hold beside (buffers, text towers) stands there too, shortened.
"""

import io
import json
import pathlib
import string

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from input_pipeline.templates import SYSTEM
from miras_jax.config.variants import VARIANTS
from miras_jax.convert import hf
from miras_jax.convert.files import stream, torch_write
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.tables import mapping
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.errors import UserError

SIZES = ("tiny", "small")  # whole models in memory
MAX_IDS = 512  # that so little text gives
SPREAD = 0.02  # of the numbers, as published language models start
_TOKENIZER = {
  "tokenizer_class": "LlamaTokenizer",
  "legacy": False,
  "add_bos_token": True,
  "add_eos_token": False,
}


def write(dst, size, *, seed=0):
  """Writes the four parts of a size into the new folder `dst`; it appears when whole.

  Raises UserError when `dst` holds something or cannot be written.
  """
  dst, cfg = pathlib.Path(dst), VARIANTS[size]
  with stream.hold_partial(dst) as partial:
    try:
      stream.empty(partial)
      flat = _numbers(expected_shapes(cfg), seed)
      for part in (_vicuna, _clip, _convnext, _sam):
        part(partial, cfg, flat)
      stream.appear(partial, dst)
    except OSError as error:
      raise UserError(f"{dst}: cannot be written: {error.strerror or error}") from None


def _numbers(shapes, seed):
  """{path: float32 array}: scales around 1, everything else around 0."""
  rng, flat = np.random.default_rng(seed), {}
  for path in sorted(shapes):
    flat[path] = rng.normal(path.endswith("/scale"), SPREAD, shapes[path])
  return {path: array.astype(np.float32) for path, array in flat.items()}


def _state(kind, ours, flat, dtype=np.float32):
  """{published key: array} of one of our parts."""
  picked = {p: x.astype(dtype) for p, x in flat.items() if p.startswith(f"{ours}/")}
  return mapping.export(unflatten_dict(picked, sep="/"), KINDS[kind])


def _vicuna(folder, cfg, flat):
  folder = folder / "vicuna"
  folder.mkdir(parents=True)
  state = _state("llama", "llm", flat, np.float16)  # as Vicuna is published
  pairs = np.arange(0, cfg.llama.head_dim, 2, dtype=np.float32) / cfg.llama.head_dim
  for i in range(cfg.llama.depth):
    key = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
    state[key] = (cfg.llama.rope_theta**-pairs).astype(np.float32)
  names, where = sorted(state), {}
  for i in range(2):
    file = f"pytorch_model-{i + 1:05}-of-00002.bin"
    torch_write.save(folder / file, {name: state[name] for name in names[i::2]})
    where |= dict.fromkeys(names[i::2], file)
  total = sum(array.nbytes for array in state.values())
  index = {"metadata": {"total_size": total}, "weight_map": where}
  _write_json(folder / "pytorch_model.bin.index.json", index)
  (folder / "config.json").write_text(hf.settings_of(cfg.llama, dtype="float16"))
  (folder / "tokenizer.model").write_bytes(
    _tokenizer(min(cfg.llama.vocab_size, MAX_IDS))
  )
  _write_json(folder / "tokenizer_config.json", _TOKENIZER)


def _clip(folder, cfg, flat):
  folder, clip = folder / "clip", cfg.clip
  folder.mkdir(parents=True)
  state = _state("clip", "clip", flat)
  places = state["vision_model.embeddings.position_embedding.weight"].shape[0]
  state |= {
    "vision_model.embeddings.position_ids": np.arange(places)[None],
    "text_model.final_layer_norm.weight": np.ones(clip.width, np.float32),
    "visual_projection.weight": np.eye(clip.width, dtype=np.float32),
    "logit_scale": np.array(4.6, np.float32),
  }
  save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
  vision = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": clip.width,
    "image_size": clip.image_size,
    "intermediate_size": clip.mlp_width,
    "num_attention_heads": clip.num_heads,
    "num_hidden_layers": clip.depth,
    "patch_size": clip.patch_size,
  }
  settings = {"architectures": ["CLIPModel"], "model_type": "clip"}
  _write_json(folder / "config.json", settings | {"vision_config": vision})


def _convnext(folder, cfg, flat):
  folder, width = folder / "convnext", cfg.convnext.dims[-1]
  folder.mkdir(parents=True)
  state = _state("convnext", "convnext", flat)
  state |= {
    "visual.trunk.head.norm.weight": np.ones(width, np.float32),
    "visual.head.mlp.fc1.weight": np.eye(width, dtype=np.float32),
    "ln_final.weight": np.ones(width, np.float32),
    "logit_scale": np.array(4.6, np.float32),
  }
  torch_write.save(folder / "open_clip_pytorch_model.bin", state)
  # The size that the tower was published with; here it sees larger pictures.
  vision = {"timm_model_name": "convnext_large", "image_size": 320}
  settings = {"model_cfg": {"vision_cfg": vision}}
  _write_json(folder / "open_clip_config.json", settings)


def _sam(folder, _cfg, flat):
  torch_write.save(folder / "sam.pth", _state("sam", "sam", flat))


def _tokenizer(size):
  """Bytes of a SentencePiece model of `size` ids with Llama's settings."""
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([SYSTEM, f"USER ASSISTANT: {string.printable.strip()}"]),
    model_writer=model,
    vocab_size=size,
    model_type="bpe",
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    split_digits=True,
    unk_id=0,
    bos_id=1,
    eos_id=2,
    pad_id=-1,
    num_threads=1,
    minloglevel=2,
  )
  return model.getvalue()


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2) + "\n")
