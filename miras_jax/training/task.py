"""What a run trains: tokenizer, data, model and objective, built from a RunConfig."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from input_pipeline import packing, words
from input_pipeline.augment import Augment
from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig
from input_pipeline.feature_cache import FeatureCache
from input_pipeline.host_rows import Grouping
from input_pipeline.mixture import Mixture
from input_pipeline.pipeline import Pipeline, make_pipeline
from input_pipeline.slots.fill import Draws
from input_pipeline.source import Source
from input_pipeline.subset import first_records
from input_pipeline.tokenizer import load_tokenizer, train_bpe
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.models import flops
from miras_jax.models.miras import Miras, batch_sizes, init_params
from miras_jax.parallel import distributed, sharding
from miras_jax.storage import copies
from miras_jax.training import sizes, sources, stages
from miras_jax.training.objective import MirasObjective
from miras_jax.training.parts import PartsObjective
from miras_jax.training.step import Objective


class Task(NamedTuple):
  """All that the loop needs and does not make itself.

  init: key -> nested dict of parameters (traced). batches: iterator of numpy dicts with
  get_state, set_state, close, and enter of a run with stages. parts: the Objective of
  the stage of that name, or None. probe: one held-out batch, or None. features: the
  FeatureCache that batches are made with, or None. flops: of one step, where known.
  tokenizer: fingerprint of the one that made the batches.
  """

  config: RunConfig
  init: Callable
  objective: Objective
  batches: Any
  probe: dict | None
  rules: tuple = sharding.PARAM_RULES
  features: Any = None
  flops: float | None = None
  tokenizer: str = ""
  parts: Objective | None = None


def make_task(config, folder, *, host=(0, 1)) -> Task:
  """Task of the MIRAS model; trains and saves the tokenizer on the first run.

  folder: workdir.Workdir. host: which share of every batch this process feeds, of how
  many (`mesh.data_host`). Raises UserError for missing or unfit data.
  """
  train, held_out = distributed.together(sources.open_splits, config)
  return make_task_on(train, config, folder, held_out=held_out, host=host)


def make_task_on(
  train: Source, config, folder, *, held_out: Source | None = None, host=(0, 1)
) -> Task:
  """`make_task` on sources that are open, for example a Mixture."""
  # The tokenizer of a run that never began may be of another config.
  again = not folder.has_begun()
  share = functools.partial(_share, folder)
  tokenizer = open_tokenizer(
    config.data, folder.tokenizer, train, again=again, share=share
  )
  parts = [
    _measured(config, tokenizer, source, folder.local)
    for source in (train, held_out)
    if source is not None
  ]
  config = fit(config, tokenizer, parts)
  sizes.tell_cut(parts, config.data.max_len)
  features = FeatureCache(config.data.cache) if config.data.cache else None
  if features:
    for part in parts:
      features.check_images(part.source.image_ids)
  open_part = functools.partial(
    open_batches, tokenizer=tokenizer, host=host, features=features
  )
  made = model_task(config)
  maskless = sizes.share_without_masks(parts[0])
  entries = train.entry_names if isinstance(train, Mixture) else ()
  return made._replace(
    objective=dataclasses.replace(
      made.objective, sources=entries, skip_maskless=maskless > 0
    ),
    parts=PartsObjective(made.objective) if config.stages.parts else None,
    batches=_batches(config, open_part, parts[0]),
    probe=_first_batch(config, open_part, parts[1]) if held_out else None,
    features=features,
    flops=step_flops(config, features, maskless),
    tokenizer=tokenizer.fingerprint(),
  )


def _batches(config, open_part, measured):
  """Those that are trained on, by stage where there are some."""
  main = open_part(config, measured=measured, shuffle=True)
  names = [stage.name for stage in stages.of(config)]
  if stages.ALIGN not in names:
    return stages.Batches(main) if stages.PARTS in names else main
  only = sizes.of_one_round(measured)
  if not only.any():
    log.warning(
      "stages.align=%s: %s has no conversation of one round, so that stage is on all",
      config.stages.align, measured.source.file,
    )  # fmt: skip
    return stages.Batches(main)
  tokens, masks = sizes.row_of(measured, only, config.data.pack, config.data.max_masks)
  data = dataclasses.replace(
    config.data, max_len=min(tokens, config.data.max_len), max_masks=masks
  )
  short = dataclasses.replace(config, data=data)
  return stages.Batches(
    main, open_part(short, measured=measured, shuffle=True, only=only)
  )


def _first_batch(config, open_part, measured):
  """A held-out batch: of a mixture one that has examples of all its sources."""
  mixed = isinstance(measured.source, Mixture)
  opened = open_part(config, measured, shuffle=False, repeat=mixed)
  with contextlib.closing(opened) as batches:
    return next(batches)


def step_flops(config, features, maskless=0.0):
  """Floating-point operations of a step, what is cached left out (see flops.py).

  maskless: the share of examples that have no mask, and so no use for what makes one.
  """
  count = flops.example(config)
  names = features.shapes if features else ()
  cached = sum((flops.FEATURES[name] for name in names), ())
  saved = sum(count.parts.get(group, 0.0) for group in cached)
  of_masks = set(flops.of_masks(config.model.build())) - set(cached)
  saved += maskless * sum(count.parts.get(group, 0.0) for group in of_masks)
  return (count.useful - saved) * config.batch_size


def model_task(config):
  """The Task of a fitted config, without data."""
  cfg = config.model.build()
  try:
    model = Miras(cfg, jnp.dtype(config.model.dtype), config.data.view)
    objective = MirasObjective(model, config.loss, config.loss_resolution)
  except ValueError as error:
    raise UserError(f"config.loss: {error}") from error
  return Task(
    config=config,
    init=lambda key: init_params(cfg, key),
    objective=objective,
    batches=None,
    probe=None,
  )


def _measured(config, tokenizer, source, folder=None):
  options = pipeline_config(config, max_len=sizes.UNLIMITED).text_options()
  return sizes.measure(source, tokenizer, options, folder)


def open_tokenizer(data, folder, source, *, again=False, share=lambda: None):
  """The run's tokenizer: the one in `folder`, else trained or read, and saved there.

  again: makes it in any case. share: brings what the first process saved to the others,
  where they do not see its folder.
  """
  if distributed.is_first() and (again or not folder.is_dir()):
    if data.tokenizer == "bpe":
      tokenizer = train_bpe(_texts(source, data), data.vocab_size)
    else:
      tokenizer = load_tokenizer(copies.fetch(data.tokenizer))
    half = folder.with_name(folder.name + ".tmp")  # a kill leaves no half tokenizer
    shutil.rmtree(half, ignore_errors=True)
    tokenizer.save(half)
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
  distributed.barrier("tokenizer")
  share()
  return load_tokenizer(folder)


def _share(folder):
  """Each process of a run in a bucket has a mirror of its own."""
  if folder.is_remote and distributed.count() > 1:
    distributed.together(folder.push)
    if not distributed.is_first():
      folder.pull()


def fit(config, tokenizer, parts):
  """The config with an embedding row for each id and room for each conversation."""
  rows = -(-tokenizer.vocab_size // sharding.VOCAB_MULTIPLE) * sharding.VOCAB_MULTIPLE
  longest = sizes.room(parts, 1, config.data.max_masks)
  packed = sizes.room(parts, config.data.pack, config.data.max_masks)
  row = config.data.max_len or max(longest, packed)
  talk = config.data.talk_len or min(row, longest)
  config = config.fitted(vocab_size=rows, max_len=row, talk_len=talk)
  given = config.model.overrides["llama.vocab_size"]
  if given < tokenizer.vocab_size:
    raise UserError(
      f"model.overrides.llama.vocab_size={given} is too small for the tokenizer's"
      f" {tokenizer.vocab_size} ids; leave it out"
    )
  return config


def talk_config(config):
  """The DataConfig of one conversation: for evaluation and chat."""
  cfg, data = pipeline_config(config), config.data
  masks = max(1, data.max_masks // data.pack)
  length = data.talk_len or data.max_len
  return dataclasses.replace(cfg, max_len=length, max_masks=masks)


def pipeline_config(config, *, max_len=None):
  """The pipeline's DataConfig: the run's choices plus the model's shapes."""
  lengths, data = batch_sizes(config.model.build()), config.data
  try:
    return DataConfig(
      max_len=max_len or data.max_len,
      max_masks=data.max_masks,
      sam_size=lengths["S"],
      aux_size=lengths["A"],
      num_image_tokens=lengths["N"],
      view=data.view,
      template=data.template,
      system=data.system or None,
      name_targets=data.name_targets,
      slot_side=lengths["Q"] if config.model.state != "none" else 0,
      slots=config.model.state_slots,
      slot_tokens=config.model.build().slot_tokens,
    )
  except ValueError as error:
    raise UserError(f"config.data: {error}") from error


def open_batches(
  config,
  measured,
  tokenizer,
  *,
  shuffle,
  repeat=None,
  host=(0, 1),
  features=None,
  only=None,
) -> Pipeline:
  """Iterator of this host's batches: for ever when shuffled, else one pass.

  repeat: for ever or one pass, whether shuffled or not. only: which records they are
  of, an array of bool; None: of all.
  """
  cfg, limit = pipeline_config(config), config.data.pack
  source = measured.source
  if limit > 1 or only is not None:
    limits = {"limit": limit, "max_len": cfg.max_len, "max_masks": cfg.max_masks}
    source = packing.pack(
      source, measured.sizes, grouped=measured.grouped, only=only, **limits
    )
  number, grouping = config.optim.accumulation, None
  if shuffle and number > 1 and sizes.share_without_masks(measured):
    grouping = Grouping(sizes.without_masks(source, measured.sizes), number)
  batches = make_pipeline(
    source,
    tokenizer,
    cfg,
    batch_size=config.batch_size,
    seed=config.seed,
    shuffle=shuffle,
    repeat=shuffle if repeat is None else repeat,
    host_index=host[0],
    host_count=host[1],
    num_threads=config.data.threads,
    cache=config.data.in_memory,
    features=features,
    augment=augmentation(config) if shuffle else None,
    grouping=grouping,
    lean=shuffle and config.model.encoder == "dual",
    slots=Draws(seed=config.seed) if shuffle else None,
  )
  batches.needs_sound = shuffle  # training on nothing would end as if it were done
  return batches


def augmentation(config) -> Augment | None:
  """How the pictures of a run are changed; None where they are not."""
  if not config.augment.is_on():
    return None
  words.load(config.augment.words)  # an unfit file is told before anything starts
  return Augment(**dataclasses.asdict(config.augment), seed=config.seed)


def held_out(config, tokenizer, *, limit=0) -> Pipeline:
  """Iterator over the held-out split of a fitted config once, as the probe is made."""
  source = sources.open_split(config, config.data.split_eval)
  source = first_records(source, limit) if limit else source
  part = _measured(config, tokenizer, source)
  return open_batches(config, measured=part, tokenizer=tokenizer, shuffle=False)


def fitted_to_data(config, folder):
  """The config as all of its data decide it: tokenizer, vocabulary and row lengths.

  The tokenizer is saved in `folder`, and runs of this config with less data read it.
  """
  data = config.data
  names = dict.fromkeys(filter(None, (data.split_train, data.split_eval)))
  opened = [sources.open_split(config, name) for name in names]
  tokenizer = open_tokenizer(data, folder, opened[0])
  config = fit(config, tokenizer, [_measured(config, tokenizer, s) for s in opened])
  data = dataclasses.replace(config.data, tokenizer=str(folder.resolve()))
  return dataclasses.replace(config, data=data)


def _texts(source, data):
  """What a vocabulary is learnt from: all that rows are made of, control tokens not."""
  for said in filter(None, source.dialogues()):
    names = said.names if data.name_targets else None
    yield from plain_texts(said.turns, system=data.system or None, names=names)
