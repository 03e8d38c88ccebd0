"""The data of a run: one data set, or the mixture of its config."""

import os
import shlex

from input_pipeline.mixture import Mixture
from input_pipeline.open_mixture import open_held_out, open_mixture
from input_pipeline.open_source import DEFAULT, find_splits, open_source, resolve
from input_pipeline.source import Source
from input_pipeline.subset import first_records
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import DataChoice
from miras_jax.errors import UserError
from miras_jax.logs import log


def open_splits(config: RunConfig) -> tuple[Source, Source | None]:
  """(what a run trains on, what it holds out if anything).

  Of a mixture, `data.limit` holds for each of its data sets, and what is held out are
  those that have the split. Raises UserError where there is no such data.
  """
  data = config.data
  if config.mixture:
    where = (config.mixture, config.sources, data.dir)
    train = open_mixture(*where, data.split_train, limit=data.limit)
    return train, _held_out(where, data.split_eval) if data.split_eval else None
  train = open_split(config, data.split_train)
  if data.limit:
    train = first_records(train, data.limit)
  return train, _open_eval(config) if data.split_eval else None


def open_split(config: RunConfig, split: str) -> Source:
  """One split of the data set, or of all of the mixture. UserError: there is none."""
  data: DataChoice = config.data
  if config.mixture:
    return open_mixture(config.mixture, config.sources, data.dir, split)
  if not data.dir:
    raise UserError(
      "data.dir is empty: name a data set with --config.data.dir=DIR"
      " (miras data synth --out=DIR makes one)"
    )
  scheme, place = resolve(data.dir)
  if scheme == DEFAULT and not os.path.isdir(place):
    raise UserError(
      f"data.dir={data.dir}: no such data folder; name yours with --config.data.dir=DIR"
      f" (miras data synth --out={shlex.quote(place)} makes one)"
    )
  return open_source(
    data.dir,
    split,
    images_dir=data.images_dir or None,
    masks_dir=data.masks_dir or None,
  )


def _open_eval(config):
  there, wanted = find_splits(config.data.dir), config.data.split_eval
  if wanted not in there:
    raise UserError(
      f"data.split_eval={wanted}: {config.data.dir} has only {', '.join(there)}; choose"
      " one with --config.data.split_eval=NAME, or none with --config.data.split_eval="
    )
  return open_split(config, wanted)


def _held_out(where, split) -> Mixture | None:
  held_out, lacking = open_held_out(*where, split)
  for reason in lacking:
    log.info("held out is nothing of %s", reason)
  if held_out is None:
    log.warning("nothing is held out: no data set of the mixture has a %s", split)
  return held_out
