"""The last part of a build: names of the shards, index, data card."""

import hashlib
import json
import shutil

import numpy as np

from input_pipeline.builders import data_card, schema, shard
from input_pipeline.builders.builder import Card

NAME = "miras.json"
FORMAT = 1
SUMMED = ("examples", "conversations", "targets", "empty_targets", "rejected", "bytes")


def finish(card: Card, folder, settings) -> None:
  """Shards in FOLDER/.build -> a data set. Interrupted, it is done again from there."""
  splits, lengths = {}, {}
  for split in settings["splits"]:
    build = folder / ".build" / split
    counts = _read_counts(build)
    splits[split] = _write_index(folder, build, split, counts)
    full = [count for count in counts if count["examples"]]
    lengths[split] = [count["examples"] for count in full]
    for k, count in enumerate(full):
      made = shard.file(build, count["number"], "array_record")
      if made.exists():  # else moved by a run that was stopped here
        made.rename(folder / shard_name(card.name, split, k, len(full)))
  _write_info(card, folder, splits, lengths)
  card_text = data_card.text(card, settings, splits)
  (folder / data_card.NAME).write_text(card_text, encoding="utf-8")
  made = {"format": FORMAT, "settings": settings, "splits": splits}
  half = folder / f"{NAME}.tmp"
  half.write_text(json.dumps(made, indent=1))
  half.rename(folder / NAME)
  shutil.rmtree(folder / ".build")


def shard_name(name: str, split: str, number: int, count: int) -> str:
  """TFDS's name of a shard."""
  return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def _read_counts(build):
  """The counts of each shard, in order."""
  paths = sorted(path for path in build.glob("*.json") if path.stem.isdigit())
  return [json.loads(path.read_text()) | {"number": int(path.stem)} for path in paths]


def _write_index(folder, build, split, counts):
  """Writes the side files of a split; returns its counts."""
  ids = [i.encode() for count in counts for i in count["image_ids"]]
  groups = [n for count in counts for n in count["groups"]]
  np.save(folder / f"index-{split}.images.npy", np.array(ids, np.bytes_))
  first = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)
  np.save(folder / f"index-{split}.first.npy", first)
  numbers = [count["number"] for count in counts]
  dialogues = [shard.file(build, n, "dialogues.jsonl") for n in numbers]
  _join(folder / f"index-{split}.dialogues.jsonl", dialogues)
  notes = [shard.file(build, n, "notes.jsonl") for n in numbers]
  _join(folder / f"notes-{split}.jsonl", notes)
  rejected = [shard.file(build, n, "rejected.jsonl") for n in numbers]
  _join(folder / f"rejected-{split}.jsonl", [build / "rejected.jsonl", *rejected])
  total = {name: sum(count[name] for count in counts) for name in SUMMED}
  total["rejected"] += json.loads((build / "plan.json").read_text())["rejected"]
  total["images"] = len(set(ids) - {b""})
  for k, name in enumerate(("fingerprint", "files_fingerprint")):
    digests = "".join(count["digests"][k] for count in counts)
    total[name] = hashlib.sha256(digests.encode()).hexdigest()[:16]
  return total


def _join(path, parts):
  with open(path, "wb") as whole:
    for part in parts:
      with open(part, "rb") as file:
        shutil.copyfileobj(file, whole)


def _write_info(card, folder, splits, lengths):
  """dataset_info.json and features.json, the data card as TFDS has it."""
  import tensorflow_datasets as tfds

  identity = tfds.core.DatasetIdentity(
    name=card.name,
    version=tfds.core.Version(card.version),
    data_dir=str(folder),
    module_name=__name__,
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    description=f"{card.title}\n\n{card.description}",
    features=schema.features(),
    homepage=card.homepage,
    citation=card.citation,
    license=card.licence,
  )
  info.set_file_format("array_record")
  info.set_splits(
    tfds.core.splits.SplitDict(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths[split],
        num_bytes=splits[split]["bytes"],
        filename_template=tfds.core.ShardedFileTemplate(
          dataset_name=card.name,
          data_dir=folder,
          filetype_suffix="array_record",
          split=split,
        ),
      )
      for split in splits
      if lengths[split]
    )
  )
  info.write_to_directory(folder)
