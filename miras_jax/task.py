"""What a run trains: tokenizer, data, model and objective, built from a RunConfig."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from miras_jax import sharding
from miras_jax.errors import UserError
from miras_jax.run_config import RunConfig
from miras_jax.train_step import Objective

# Embedding rows are rounded up, so that common mesh sizes divide them.
VOCAB_MULTIPLE = 64
CONTROL = ("[SEG]", "[OBJ]")


class Task(NamedTuple):
  """All that the loop needs and does not make itself.

  init: key -> nested dict of parameters (traced). batches: iterator of numpy dicts with
  get_state, set_state, close. probe: one held-out batch, or None.
  """

  config: RunConfig
  init: Callable
  objective: Objective
  batches: Any
  probe: dict | None
  rules: tuple = sharding.PARAM_RULES


def make_task(config, folder):
  """Task of the MIRAS model; trains and saves the tokenizer on the first run.

  folder: workdir.Workdir. Raises UserError for missing or unfit data.
  """
  from miras_jax.models.miras import Miras, init_params
  from miras_jax.objective import MirasObjective

  dataset = open_split(config.data, config.data.split_train)
  tokenizer = open_tokenizer(config.data, folder.tokenizer, dataset)
  config = fit_vocab(config, tokenizer)
  cfg = config.model.build()
  try:
    model = Miras(cfg, jnp.dtype(config.model.dtype))
    objective = MirasObjective(model, config.loss, config.loss_resolution)
  except ValueError as error:
    raise UserError(f"config.loss: {error}") from error
  return Task(
    config=config,
    init=lambda key: init_params(cfg, key),
    objective=objective,
    batches=open_batches(config, dataset, tokenizer, shuffle=True),
    probe=_probe(config, tokenizer),
  )


def open_split(data, split):
  """The records of one split of `data.dir`."""
  from input_pipeline.prist import read_dataset

  if not data.dir:
    raise UserError(
      "data.dir is empty: name a data set with --config.data.dir=DIR"
      " (miras data synth --out=DIR makes one)"
    )
  return read_dataset(
    data.dir,
    split,
    images_dir=data.images_dir or None,
    masks_dir=data.masks_dir or None,
  )


def open_tokenizer(data, folder, dataset):
  """The run's tokenizer: the one in `folder`, else trained or read, and saved there."""
  from input_pipeline.tokenizer import load_tokenizer, train_bpe

  if folder.is_dir():
    return load_tokenizer(folder)
  if data.tokenizer == "bpe":
    tokenizer = train_bpe(_texts(dataset), data.vocab_size)
  else:
    tokenizer = load_tokenizer(data.tokenizer)
  if jax.process_index() == 0:
    tokenizer.save(folder)
  return tokenizer


def fit_vocab(config, tokenizer):
  """The config with an embedding row for each of the tokenizer's ids."""
  given = config.model.overrides.get("llama.vocab_size")
  if given is None:
    rows = -(-tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return config.with_vocab(rows)
  if given < tokenizer.vocab_size:
    raise UserError(
      f"model.overrides.llama.vocab_size={given} is too small for the tokenizer's"
      f" {tokenizer.vocab_size} ids; leave it out"
    )
  return config


def pipeline_config(config):
  """The pipeline's DataConfig: the run's choices plus the model's shapes."""
  from input_pipeline.pipeline import DataConfig

  cfg, data = config.model.build(), config.data
  try:
    return DataConfig(
      max_len=data.max_len,
      max_masks=data.max_masks,
      sam_size=cfg.sam_encoder.image_size,
      aux_size=cfg.convnext.image_size if cfg.convnext else cfg.clip.image_size,
      num_image_tokens=cfg.num_image_tokens,
      view=data.view,
      template=data.template,
      system=data.system or None,
      name_targets=data.name_targets,
    )
  except ValueError as error:
    raise UserError(f"config.data: {error}") from error


def open_batches(config, dataset, tokenizer, *, shuffle):
  """Iterator of this host's batches: for ever when shuffled, else one pass."""
  from input_pipeline.pipeline import make_pipeline

  return make_pipeline(
    dataset,
    tokenizer,
    pipeline_config(config),
    batch_size=config.batch_size,
    seed=config.seed,
    shuffle=shuffle,
    repeat=shuffle,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
    num_threads=config.data.threads,
    cache=config.data.in_memory,
  )


def _probe(config, tokenizer):
  if not config.data.split_eval:
    return None
  dataset = open_split(config.data, config.data.split_eval)
  return next(open_batches(config, dataset, tokenizer, shuffle=False))


def _texts(dataset):
  """What a vocabulary is learnt from: every turn and every target's name."""
  for entry in dataset.entries:
    if entry.problems:
      continue
    for _, text in entry.turns:
      for token in CONTROL:
        text = text.replace(token, " ")
      yield text
    yield from (focus for focus in entry.focuses if focus)
