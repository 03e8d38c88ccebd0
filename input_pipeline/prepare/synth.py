"""`miras data synth`: a small PRIST in which every fact is known.

Writes PRIST's own layout (images/, masks/ with one labelme file an image, train.json,
val.json, test.json). An image belongs to one split. The same seed gives the same bytes,
whatever the number of conversations asked for before.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import tqdm
from PIL import Image

from input_pipeline import safe_files
from input_pipeline.prepare.dialogue import sample_conversation
from input_pipeline.prepare.edits import with_edits
from input_pipeline.prepare.naming import sample_namings
from input_pipeline.prepare.scene import render, sample_scene
from miras_jax.errors import UserError

PER_IMAGE = 3
EVAL_SHARE = 0.05  # of the images, for val and again for test
KINDS = {"one": 0.68, "part": 0.13, "two": 0.14, "none": 0.05}
JPEG_QUALITY = 92
MARKER = "synth.json"  # written last
BEGUN = ".synth_begun"  # there while the data set is being made
LOCK = ".lock"  # of the command that makes it (checkpoint/lock.py)
FOLDERS = ("images", "masks")
RECIPE = 2  # of the scenes and talks: another one makes other data from the same seed


def generate(out, conversations, seed, short=0, edits=0.0):
  """Writes `conversations` conversations under `out`. Returns a dict of counts.

  short: so many short talks follow in train.json for each of its images (`naming.py`);
  the conversations and pictures are the same without them.
  edits: the share of those that end with a mask of one object and go on from there
  (`edits.with_edits`); pictures and all turns before are the same for any share.

  Does nothing when `out` already holds this very data set. Raises UserError when it
  holds anything else.
  """
  out = pathlib.Path(out)
  recipe = {"conversations": conversations, "seed": seed, "recipe": RECIPE}
  if short:
    recipe["short"] = short
  if edits:
    recipe["edits"] = edits
  if conversations < 3 * PER_IMAGE:
    raise UserError(
      f"--conversations={conversations}: give at least {3 * PER_IMAGE}, "
      "so that train, val and test each get an image"
    )
  if _already_there(out, recipe):
    return _counts(out)
  out.mkdir(parents=True, exist_ok=True)
  _write_whole(out / BEGUN, json.dumps(recipe) + "\n")
  for folder in FOLDERS:
    (out / folder).mkdir(exist_ok=True)
  _write_splits(out, _records(out, conversations, seed, short, edits))
  _write_whole(out / MARKER, json.dumps(recipe) + "\n")
  (out / BEGUN).unlink()
  return _counts(out)


def _already_there(out, recipe):
  """Whether `out` holds this very data set; clears what a killed run left of one."""
  inside = {p.name for p in out.iterdir()} if out.exists() else set()
  if MARKER in inside and _read_whole(out / MARKER, object) == recipe:
    return True
  if BEGUN in inside and MARKER not in inside:
    for folder in FOLDERS:
      shutil.rmtree(out / folder, ignore_errors=True)
    return False
  if inside - {LOCK}:
    raise UserError(
      f"{out} is not empty and holds another data set: name a new folder "
      "with --out, or delete this one"
    )
  return False


def _read_whole(path, kind):
  """The JSON value of a type in a file that was written whole; UserError where it no
  longer is."""
  try:
    data = safe_files.read_bytes(path, safe_files.MAX_LIST_BYTES)
    value = safe_files.parse_json(data)[0]
    if not isinstance(value, kind):
      raise ValueError
    return value
  except (ValueError, FileNotFoundError):
    raise UserError(
      f"{path}: damaged, so that nobody knows what this data set is; delete the folder"
      f" {path.parent} and run the command again"
    ) from None


def _write_whole(path, text):
  """The file is there with all of its text or not at all."""
  aside = path.with_name(path.name + ".tmp")
  aside.write_text(text, encoding="utf-8")
  os.replace(aside, path)


def _records(out, conversations, seed, short, edits):
  """Yields for each image its records and its questions of one round, writing its
  picture and masks on the way."""
  done, index = 0, 0
  with tqdm.tqdm(total=conversations, desc="render", unit="conv") as bar:
    while done < conversations:
      rng = np.random.default_rng([seed, index])
      scene = sample_scene(rng)
      talks = _talks(scene, rng, min(PER_IMAGE, conversations - done))
      index += 1
      if not talks:
        continue
      talks = _edited(scene, talks, np.random.default_rng([seed, index, 2]), edits)
      stem = f"synth_{index:06d}"
      questions = sample_namings(scene, np.random.default_rng([seed, index, 1]), short)
      image = Image.fromarray(render(scene, rng))
      image.save(out / "images" / f"{stem}.jpg", quality=JPEG_QUALITY)
      name, talked = f"{stem}.jpg", [*talks, *questions]
      _write_masks(out / "masks" / f"{stem}.json", name, scene, talked)
      yield tuple([_record(name, t) for t in part] for part in (talks, questions))
      done += len(talks)
      bar.update(len(talks))


def _talks(scene, rng, count):
  """Up to `count` conversations about one scene, no two about the same targets.

  One of them, if it is not about two objects, wants a mask of a group on its way.
  """
  talks, seen = [], set()
  early = rng.integers(PER_IMAGE)
  for _ in range(4 * count):
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    early_mask = kind != "two" and len(talks) == early
    talk = sample_conversation(scene, rng, kind, early_mask=early_mask)
    key = talk and talk.targets[-1].label
    if talk is None or key in seen:
      continue
    seen.add(key)
    talks.append(talk)
    if len(talks) == count:
      break
  return talks


def _edited(scene, talks, rng, share):
  """The conversations, a share of them with requests that go on from the last mask."""
  return [
    with_edits(scene, talk, rng) if share and rng.random() < share else talk
    for talk in talks
  ]


def _record(name, talk):
  dialogue = [
    {"from": role, "value": text}
    for pair in talk.rounds
    for role, text in zip(("human", "gpt"), pair, strict=True)
  ]
  focus = [target.label for target in talk.targets]
  return {
    "img_id": name,
    "dialogue": dialogue,
    "focus": focus[0] if len(focus) == 1 else focus,  # []: no mask is wanted
  }


def _write_masks(path, image_name, scene, talks):
  """One labelme file: every object, and what the conversations call by other names."""
  labelled = [(item.label, item.polygons) for item in scene.objects]
  labels = {label for label, _ in labelled}
  for target in (t for talk in talks for t in talk.targets):
    if target.label and target.label not in labels:
      labels.add(target.label)
      labelled.append((target.label, target.polygons))
  shapes = [
    _shape(label, polygon, group)
    for group, (label, polygons) in enumerate(labelled)
    for polygon in polygons
  ]
  path.write_text(
    json.dumps(
      {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": scene.height,
        "imageWidth": scene.width,
      }
    )
  )


def _shape(label, polygon, group):
  points = [[round(float(x), 2), round(float(y), 2)] for x, y in polygon]
  return {
    "label": label,
    "points": points,
    "group_id": group,
    "shape_type": "polygon",
    "flags": {},
  }


def _write_splits(out, per_image):
  groups = list(per_image)
  held_out = max(1, round(EVAL_SHARE * len(groups)))
  talks = [talks for talks, _ in groups]
  parts = {
    "val": talks[:held_out],
    "test": talks[held_out : 2 * held_out],
    "train": [talks + questions for talks, questions in groups[2 * held_out :]],
  }
  for split, images in parts.items():
    records = [record for image in images for record in image]
    (out / f"{split}.json").write_text(json.dumps(records, indent=1) + "\n")


def _counts(out):
  splits = ("train", "val", "test")
  return {split: len(_read_whole(out / f"{split}.json", list)) for split in splits}
