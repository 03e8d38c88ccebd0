"""The formats that `miras convert --to` writes.

ours   our own checkpoint: `miras train`, `eval` and `chat` open it
miras  the PyTorch original's state dict; its training names with adapters
peft   the adapters alone, as PEFT saves them
hf     the language model alone, adapters merged, as transformers opens it
"""

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from input_pipeline.tokenizer import load_tokenizer
from miras_jax.config.run import OWN_FIELDS, ModelChoice, RunConfig, base_config
from miras_jax.convert import card, hf, infer
from miras_jax.convert.files import stream
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.convert.tree import published_targets
from miras_jax.errors import UserError
from miras_jax.storage import reach

FORMAT, INDEX = "miras_jax params 1", "params/index.json"
LORA = re.compile(r"/lora_[ab]$")
# What a tokenizer's folder may hold; copied as it is.
_TOKENIZER_FILES = (
  "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
  "special_tokens_map.json", "chat_template.jinja", "vocab.json", "merges.txt",
)  # fmt: skip


class Output(NamedTuple):
  """`make(job, shard_bytes)` -> (shards, {file: text}, [function that writes into a
  folder]). `merged`: adapters are added first. `note`: goes into the manifest."""

  make: Callable
  merged: bool = False
  tokenizer: bool = True
  note: dict = {}


def is_converted(path):
  """Whether `path` is a folder that `miras convert` wrote in our format."""
  path = reach.path(path)
  return (path / stream.MANIFEST).is_file() and (path / INDEX).is_file()


def _ours(job, shard_bytes):
  targets = job.tree.targets()
  shards = stream.plan_shards(targets, folder="params/", shard_bytes=shard_bytes)
  run = run_config(job)
  dtypes = sorted({np.dtype(info.dtype).name for info in job.tree.infos.values()})
  texts = {
    stream.CARD: card.text(job, run, " and ".join(dtypes)),
    "config.json": run.to_json(),
    INDEX: stream.index_text(shards),
    "language_model.json": json.dumps(job.settings, indent=2, default=str) + "\n",
  }

  def save_tokenizer(folder):
    load_tokenizer(job.tokenizer).save(folder / "tokenizer")

  return shards, texts, [save_tokenizer] if job.tokenizer else []


def _miras(job, shard_bytes):
  if job.cfg.encoder != "dual":
    raise UserError(
      f"--to=miras: the published code has no model of encoder={job.cfg.encoder!r};"
      " --to=hf writes its language model, --to=ours all of it"
    )
  if job.cfg.state != "none":
    raise UserError(
      f"--to=miras: the published code has no model of state={job.cfg.state!r};"
      " --to=hf writes its language model, --to=ours all of it"
    )
  adapted = any(LORA.search(path) for path in job.tree.infos)
  table = KINDS["miras-training" if adapted else "miras"]
  targets = published_targets(job.tree, table, sorted(job.tree.infos))
  variant, overrides = infer.overrides_of(job.cfg)
  texts = {
    "miras_config.json": json.dumps(
      {"variant": variant, "overrides": overrides}, indent=2) + "\n"
  }  # fmt: skip
  return _published(job, targets, shard_bytes, texts)


def _hf(job, shard_bytes):
  paths = sorted(p for p in job.tree.infos if p.startswith("llm/"))
  if not paths:
    raise UserError("--to=hf: the source has no language model")
  targets = published_targets(job.tree, KINDS["llama"], paths)
  dtype = np.dtype(job.tree.infos["llm/embed/embedding"].dtype).name
  text = hf.settings_of(job.cfg.llama, dtype=dtype, source=job.settings)
  return _published(job, targets, shard_bytes, {"config.json": text})


def _peft(job, shard_bytes):
  paths = sorted(p for p in job.tree.infos if LORA.search(p))
  if not paths:
    raise UserError("--to=peft: there are no adapters in the source")
  targets = published_targets(job.tree, KINDS["peft"], paths)
  llama = job.cfg.llama
  settings = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None,
    "inference_mode": True,
    "bias": "none",
    "r": llama.lora_rank,
    "lora_alpha": llama.lora_alpha,
    "lora_dropout": llama.lora_dropout,
    "target_modules": list(llama.lora_targets),
  }
  shards = stream.plan_shards(targets, stem="adapter_model", shard_bytes=shard_bytes)
  return shards, {"adapter_config.json": json.dumps(settings, indent=2) + "\n"}, []


def _published(job, targets, shard_bytes, texts):
  shards = stream.plan_shards(targets, shard_bytes=shard_bytes)
  if len(shards) > 1:
    texts = texts | {"model.safetensors.index.json": stream.index_text(shards)}
  copies = (
    [lambda folder: _copy_tokenizer(job.tokenizer, folder)] if job.tokenizer else []
  )
  return shards, texts, copies


def _copy_tokenizer(path, folder):
  path = pathlib.Path(path)
  if path.is_file():
    shutil.copyfile(path, folder / path.name)
    return
  for name in _TOKENIZER_FILES:
    if (path / name).is_file():
      shutil.copyfile(path / name, folder / name)


def run_config(job):
  """RunConfig of the result: the run it came from, or the defaults around its model."""
  variant, overrides = infer.overrides_of(job.cfg)
  own = {name: overrides.pop(name) for name in OWN_FIELDS if name in overrides}
  run = job.run or RunConfig.from_config_dict(base_config())
  dtype = run.model.dtype if job.run else _compute_dtype(job)
  model = ModelChoice(variant=variant, overrides=overrides, dtype=dtype, **own)
  if job.run is None:
    # Published weights have seen the centre of the picture only, and plain answers.
    seen = any(s.kind in ("miras", "miras-training", "lisa") for s in job.sources)
    data = dataclasses.replace(
      run.data, tokenizer="tokenizer", view="center_crop" if seen else "letterbox",
      name_targets=not seen, max_len=2048,
    )  # fmt: skip
    run = dataclasses.replace(run, data=data)
  return dataclasses.replace(run, model=model)


def _compute_dtype(job):
  info = job.tree.infos.get("llm/embed/embedding")
  return "float32" if info is None or info.dtype == np.float32 else "bfloat16"


OUTPUTS = {
  "ours": Output(_ours, note={"format": FORMAT}),
  "miras": Output(_miras, tokenizer=False),
  "peft": Output(_peft, tokenizer=False),
  "hf": Output(_hf, merged=True, tokenizer=False),
}
