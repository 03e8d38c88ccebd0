"""Opens the data sets of `config.mixture` (`mixtures`) as one source."""

import os
from collections.abc import Mapping

from input_pipeline import mixtures
from input_pipeline.builders import registry
from input_pipeline.mixture import Mixture, mix
from input_pipeline.open_source import open_source
from input_pipeline.records import RecordError
from input_pipeline.subset import first_records
from miras_jax.errors import UserError
from miras_jax.storage import reach


def open_mixture(
  mixture: Mapping[str, float],
  sources: Mapping[str, str],
  root: str,
  split: str,
  *,
  limit: int = 0,
) -> Mixture:
  """The split of every data set of a mixture, as one source.

  root: the folder that holds the data sets by name (`data.dir`). limit: how many first
  records of each, 0: all. Raises UserError for an unknown name and for a data set that
  is not there or lacks the split.
  """
  found = mixtures.parts(mixture, sources)
  places = [_place(part, sources, root) for part in found]
  opened = [_open(*each, split) for each in zip(found, places, strict=True)]
  if limit:
    opened = [first_records(source, limit) for source in opened]
  entries, names, weights = zip(*found, strict=True)
  return mix(opened, weights, names, entries)


def open_held_out(
  mixture: Mapping[str, float], sources: Mapping[str, str], root: str, split: str
) -> tuple[Mixture | None, list[str]]:
  """(those data sets of a mixture that have the split, why the others do not)."""
  kept, opened, lacking = [], [], []
  for part in mixtures.parts(mixture, sources):
    try:
      opened.append(open_source(_place(part, sources, root), split))
      kept.append(part)
    except RecordError:
      raise
    except UserError as error:
      lacking.append(f"{part.name}: {error}")
  if not kept:
    return None, lacking
  entries, names, weights = zip(*kept, strict=True)
  return mix(opened, weights, names, entries, sorted(mixture)), lacking


def _open(part, place, split):
  """`open_source` whose errors say which data set of the mixture they are of."""
  try:
    return open_source(place, split)
  except RecordError as error:
    file = f"{part.name}/{error.file}"
    raise RecordError(file, error.record, error.reason) from None
  except UserError as error:
    raise UserError(f"mixture.{part.name}: {error}") from None


def _place(part, sources, root):
  """Where a data set is. UserError where that is nowhere."""
  if part.name in sources:
    return sources[part.name]
  if not root:
    raise UserError(
      "data.dir is empty: name the folder below which the data sets of the mixture are,"
      " with --config.data.dir=DIR"
    )
  place = os.path.join(root, folder_of(part.name))
  if reach.is_folder(place):
    return place
  if part.name not in mixtures.known(sources):
    raise mixtures.unknown(part.name, sources, _folders(root))
  raise UserError(
    f"mixture.{part.entry}: {place} is not there; build it with miras data build"
    f" {part.name} --src=... --out={root}, name its place with"
    f" --config.sources.{part.name}=DIR, or leave it out with"
    f" --config.sources.{part.name}={mixtures.LEFT_OUT}"
  )


def _folders(root):
  """Names of the folders at a place, none where it cannot be looked at."""
  if reach.is_remote(root):
    return reach.names(reach.path(root))
  try:
    return [entry.name for entry in os.scandir(root) if entry.is_dir()]
  except OSError:
    return []


def folder_of(name: str) -> str:
  """Below which folder `miras data build NAME` puts a data set: TFDS allows no "+"."""
  return registry.make(name).card.name if name in registry.BUILDERS else name
