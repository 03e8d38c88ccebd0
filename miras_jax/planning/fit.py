"""A config as devices and data would have it: batch, rows, vocabulary, slices."""

import dataclasses
import math

from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding

CONTROL_TOKENS = 8  # rows for them behind the vocabulary, at least
TALK = 256  # tokens of a conversation beside its image, where nothing else is known


def fit(config, num_devices, *, num_slices=1, per_chip=0):
  """(config that runs on so many devices, notes about what was filled in).

  Vocabulary and row length as data would decide them; one `dcn_data` a slice; a batch
  that the mesh divides: `per_chip` examples of a micro-batch on each batch shard, or
  the config's own batch rounded up.
  """
  notes = []
  if num_slices > 1 and config.mesh.dcn_data == 1:
    mesh = dataclasses.replace(config.mesh, dcn_data=num_slices)
    config = dataclasses.replace(config, mesh=mesh)
  llama_cfg = config.model.build().llama
  rows = llama_cfg.vocab_size + CONTROL_TOKENS
  rows = -(-rows // sharding.VOCAB_MULTIPLE) * sharding.VOCAB_MULTIPLE
  image = config.model.build().num_image_tokens
  if 0 < config.data.max_len <= image:
    raise UserError(
      f"data.max_len={config.data.max_len}: the image alone has {image} tokens"
    )
  length = image + config.data.pack * TALK
  if not config.data.max_len:
    notes.append(f"data.max_len is open: {length} tokens a row taken")
  config = config.fitted(vocab_size=rows, max_len=length, talk_len=image + TALK)
  sizes = mesh_lib.resolve(config.mesh, num_devices)
  shards = math.prod(sizes[a] for a in mesh_lib.BATCH_AXES)
  unit = shards * config.optim.accumulation
  batch = per_chip * unit or -(-config.batch_size // unit) * unit
  if batch != config.batch_size:
    notes.append(
      f"batch_size {config.batch_size} -> {batch}: {batch // unit} example(s) on each"
      f" of {shards} batch shard(s) x accumulation {config.optim.accumulation}"
    )
  return dataclasses.replace(config, batch_size=batch), tuple(notes)
