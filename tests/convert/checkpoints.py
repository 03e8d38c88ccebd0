"""Tiny published checkpoints of random numbers, under the names of any kind."""

import json

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import TINY
from miras_jax.convert import hf
from miras_jax.convert.files import torch_write
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.tables import mapping
from miras_jax.convert.tables.kinds import KINDS

CFG = with_overrides(
  TINY,
  {
    "llama.depth": 2,
    "llama.vocab_size": 300,
    "llama.norm_eps": 1e-6,
    # Published weights do not say how they are computed.
    "llama.attention": "xla",
    "llama.scan_unroll": 1,
    "convnext.layer_scale_init": 1e-6,
    "seg_prompt.alignment": "none",
  },
)
# What neither weights nor settings of so small a model show.
SET = ("--set=clip.num_heads=4", "--set=sam_decoder.num_heads=4",
       "--set=seg_prompt.num_heads=4", "--set=convnext.image_size=64",
       "--set=convnext.target_grid=8")  # fmt: skip
PARTS = {
  "llama": ("llm",),
  "clip": ("clip",),
  "clip-openai": ("clip",),
  "convnext": ("convnext",),
  "sam": ("sam",),
  "sam-hf": ("sam",),
  "llava-hf": ("llm", "clip", "projector"),
  "miras": ("clip", "convnext", "mining", "projector", "llm", "seg_prompt", "sam"),
  "miras-training": ("clip", "convnext", "mining", "projector", "llm", "seg_prompt",
                     "sam"),
}  # fmt: skip


def params(cfg=CFG, *, dtype=np.float32, seed=0):
  """{path: array} of a whole model."""
  rng = np.random.default_rng(seed)
  return {
    path: rng.normal(size=shape).astype(dtype)
    for path, shape in expected_shapes(cfg).items()
  }


def state_dict(kind, flat):
  """What a checkpoint of this kind holds of a model's leaves."""
  picked = {k: x for k, x in flat.items() if k.split("/")[0] in PARTS[kind]}
  return mapping.export(unflatten_dict(picked, sep="/"), KINDS[kind])


def towers(cfg):
  """What a checkpoint has beside the language model, under MIRAS's names."""
  rest = {k: x for k, x in params(cfg).items() if not k.startswith("llm/")}
  return mapping.export(unflatten_dict(rest, sep="/"), KINDS["miras"])


def write(folder, state, *, cfg=CFG, shards=1, suffix=".safetensors", settings=None):
  """A folder as Hugging Face has it: weights in one file or several, config.json."""
  folder.mkdir(parents=True)
  names = sorted(state)
  stem = "pytorch_model" if suffix == ".bin" else "model"
  where = {}
  for i in range(shards):
    file = f"{stem}-{i + 1:05}-of-{shards:05}{suffix}" if shards > 1 else stem + suffix
    part = {k: np.ascontiguousarray(state[k]) for k in names[i::shards]}
    where |= dict.fromkeys(part, file)
    save = torch_write.save if suffix == ".bin" else _save
    save(folder / file, part)
  if shards > 1:
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": where}))
  if settings is None:
    settings = json.loads(hf.settings_of(cfg.llama, dtype="float32"))
  if settings:
    (folder / "config.json").write_text(json.dumps(settings))
  return folder


def _save(path, arrays):
  save_file(arrays, path, metadata={"format": "pt"})


def tokenizer(folder, *, control=(), size=295):
  """A byte-level `tokenizer.json` of `size` ids with the given control tokens."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers

  from input_pipeline.codecs import fast_class

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = ["<pad>", "<s>", "</s>", *letters]
  pieces += [f"<unused{i}>" for i in range(size - len(pieces) - len(control))]
  backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(["<pad>", "<s>", "</s>", *control])
  hf_tokenizer = fast_class()(
    tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
  )
  hf_tokenizer.save_pretrained(str(folder))
  return folder
