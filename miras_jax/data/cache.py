"""Runs the frozen encoders once over a data set; training then reads their features.

  miras data cache --config=configs/miras_7b_stage2.py --out=cache/prist
  miras train --config=configs/miras_7b_stage2.py --config.data.cache=cache/prist ...

Takes the --config.a.b=VALUE of the run that will read it, data.dir above all.

Cached is what no trained parameter can change: `sam_features` when SAM's image encoder
is frozen, `image_tokens` when CLIP, ConvNeXt, patch mining and projector all are; and
SAM's too, where `model.encoder` makes tokens of its features. The weights are those the
config starts from (its seed, or init_from). Every process writes parts of its own; run
the same command again after a kill, and it goes on.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import tqdm
from flax.traverse_util import unflatten_dict

from input_pipeline import batch_table, feature_cache
from input_pipeline.examples import make_views
from input_pipeline.records import RecordError
from input_pipeline.source import Source
from miras_jax import logs
from miras_jax.checkpoint import lock, workdir
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.errors import UserError
from miras_jax.parallel import distributed, sharding
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import features, init_from, sizes, task
from miras_jax.training import sources as run_sources


def main(args):
  """Writes the cache; returns 0."""
  logs.to_stderr()
  config = init_from.fitted(config_file.read(args.config, args.fields))
  distributed.start(config.distributed)
  distributed.require_same("config", run_config.shared_by_processes(config))
  if args.batch_size < 1 or args.part_size < 1:
    raise UserError("--batch_size and --part_size must be at least 1")
  sources = open_sources(config)
  mesh = mesh_lib.make_mesh(config.mesh)
  run_task = task.model_task(config)
  with jax.set_mesh(mesh):
    names, params = features.encoder_params(run_task, mesh)
    manifest = features.make_manifest(config, names, params)
  images = list_images(sources)
  manifest["parts"] = -(-len(images) // args.part_size)
  manifest["images"] = feature_cache.digest(json.dumps(images).encode())
  folder = pathlib.Path(args.out)
  make = functools.partial(_make, folder)
  with lock.hold_together(folder, "miras data cache", make):
    prepare(folder, manifest)
    write_parts(folder, run_task, names, params, images, sources, args)
    distributed.barrier("parts")
    if distributed.is_first():
      text = json.dumps(manifest) + "\n"
      workdir.write_atomically(folder / "cache.json", text)
      size = sum(p.stat().st_size for p in folder.glob("part-*"))
      print(
        f"{folder}: {', '.join(manifest['features'])} of {len(images)} images,"
        f" {size / 1e6:,.1f} MB"
      )
    distributed.barrier("end")
  return 0


def _make(folder):
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={folder} cannot be made: {error.strerror}") from None


def open_sources(config) -> dict[str, Source]:
  """{split: source} of the run's training and held-out split."""
  train, held_out = run_sources.open_splits(config)
  sources = {config.data.split_train: train}
  if held_out is not None:
    sources.setdefault(config.data.split_eval, held_out)
  return sources


def list_images(sources):
  """[(split, image id, its records)], every image of a split once, in order."""
  images = []
  for split, source in sources.items():
    records = {}
    for i, image_id in enumerate(source.image_ids):
      if image_id:
        records.setdefault(image_id, []).append(i)
    images += [(split, image_id, numbers) for image_id, numbers in records.items()]
  return images


def prepare(folder, manifest):
  """Makes the folder; UserError when it holds a cache of something else."""
  text = json.dumps(manifest, sort_keys=True)
  begun = folder / "begun.json"
  if distributed.is_first():
    folder.mkdir(parents=True, exist_ok=True)
    if not begun.exists():
      workdir.write_atomically(begun, text)
    for half in folder.glob("part-*.tmp"):
      half.unlink()
  distributed.barrier("prepared")
  if begun.read_text() != text:
    raise UserError(
      f"--out={folder} holds a cache of other weights, settings, images or part_size;"
      " take another folder"
    )


def write_parts(folder, run_task, names, params, images, sources, args):
  """Writes the parts of this process that are not there yet."""
  encoder = Encoder(run_task, names, params, args.batch_size)
  cfg = task.pipeline_config(run_task.config, max_len=sizes.UNLIMITED)
  count = -(-len(images) // args.part_size)
  parts = range(jax.process_index(), count, jax.process_count())
  todo = [part for part in parts if not feature_cache.is_done(folder, part)]
  total = sum(len(_of_part(images, part, args.part_size)) for part in parts)
  left = sum(len(_of_part(images, part, args.part_size)) for part in todo)
  with tqdm.tqdm(
    total=total, initial=total - left, desc="encoding", unit="image",
    disable=not distributed.is_first(),
  ) as bar:  # fmt: skip
    for part in todo:
      writer = feature_cache.PartWriter(folder, part, names)
      of_part = _of_part(images, part, args.part_size)
      for start in range(0, len(of_part), args.batch_size):
        batch = of_part[start : start + args.batch_size]
        _write_batch(writer, batch, sources, cfg, encoder)
        bar.update(len(batch))
      writer.close()


def _of_part(images, part, size):
  return images[part * size : (part + 1) * size]


def _write_batch(writer, images, sources, cfg, encoder):
  """Encodes some images; those without a sound record are only named."""
  sound = []
  for split, image_id, numbers in images:
    records = (sources[split].load(i) for i in numbers)
    record = next((r for r in records if not isinstance(r, RecordError)), None)
    if record is None:
      writer.skip(image_id)
      continue
    sound.append((image_id, record.image, make_views(record.image, cfg)))
  if not sound:
    return
  features = encoder([views for _, _, views in sound])
  for row, (image_id, image, views) in enumerate(sound):
    writer.add(
      image_id,
      feature_cache.digest(image),
      {name: values[row] for name, values in features.items()},
      valid_hw=views["valid_hw"],
      original_hw=views["original_hw"],
    )


class Encoder:
  """Views of up to `batch_size` images -> {feature: bf16 array} on this host.

  Runs on this process's devices only, so that processes need not keep step.
  """

  def __init__(self, run_task, names, params, batch_size):
    devices = jax.local_devices()
    self._mesh = mesh_lib.local_mesh()
    self._placed = sharding.batch_shardings(self._mesh, batch_table.ENCODER_INPUTS)
    replicated = sharding.replicated_sharding(self._mesh)
    self._size = -(-batch_size // len(devices)) * len(devices)
    local = {p: x.addressable_data(0) for p, x in params.items()}
    self._params = jax.device_put(unflatten_dict(local, sep="/"), replicated)
    model = run_task.objective.model
    self._program = jax.jit(functools.partial(features.encode, model, tuple(names)))

  def __call__(self, views):
    count = len(views)
    views = views + [views[-1]] * (self._size - count)
    batch = {k: np.stack([v[k] for v in views]) for k in self._placed}
    with jax.set_mesh(self._mesh):
      out = self._program(self._params, jax.device_put(batch, self._placed))
    return {k: np.asarray(x)[:count] for k, x in out.items()}
