"""Mutated files for the readers of what strangers hand over; each returns or refuses.

A reader is `attack(folder, rng)`: it writes files into an empty folder, harms them and
reads them as the commands do. It returns, or raises UserError; all else is a failure.
"""

import base64
import functools
import io
import json
import math
import pathlib
import struct
import zipfile

import numpy as np
from PIL import Image

from input_pipeline import examples, feature_cache, image_ops, prist
from input_pipeline.prepare import synth
from input_pipeline.records import RecordError
from input_pipeline.tokenizer import load_tokenizer, train_bpe
from miras_jax.benchmarks.attacks import mutate
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.convert.files.safetensors_file import SafetensorsFile
from miras_jax.convert.files.torch_file import TorchFile
from miras_jax.errors import UserError
from miras_jax.training import metrics_log

HEIGHT, WIDTH = 48, 64
SHAPE = {
  "label": "cup",
  "points": [[4, 4.5], [40, 4], [40, 30], [4, 30]],
  "shape_type": "polygon",
}
CIRCLE = {"label": "ball", "points": [[20, 20], [28, 20]], "shape_type": "circle"}
DIALOGUE = [
  {"from": "human", "value": "Where is it?"},
  {"from": "gpt", "value": "There is a [OBJ]cup[SEG]."},
  {"from": "human", "value": "And the ball?"},
  {"from": "gpt", "value": "Here: [SEG]."},
]
RECORDS = [
  {"img_id": "a.png", "dialogue": DIALOGUE, "focus": ["cup", "ball"]},
  {"img_id": "a.png", "dialogue": DIALOGUE[:2], "focus": "tea"},
  {"img_id": "a.png", "dialogue": DIALOGUE[:2], "focus": None},
]
# An EXIF block that says only: a quarter turn.
TURN = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
FORMATS = (
  ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}),
  ("PNG", "1", {}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}), ("JPEG", "L", {}),
  ("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGBA", {}), ("BMP", "RGB", {}),
  ("WEBP", "RGB", {"lossless": True}), ("TIFF", "RGB", {}), ("BMP", "P", {}),
  ("TIFF", "RGB", {"compression": "tiff_lzw"}),
  ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
  *((kind, "RGB", {"exif": TURN}) for kind in ("JPEG", "PNG", "WEBP", "TIFF")),
)  # fmt: skip


@functools.cache
def picture(kind, mode, **options) -> bytes:
  """A small encoded picture."""
  coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
  image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), 2)
  if mode == "I;16":
    image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
  stream = io.BytesIO()
  (image if mode == "I;16" else image.convert(mode)).save(stream, kind, **options)
  return stream.getvalue()


MASK = {
  "label": "cup", "points": [[0, 0], [WIDTH - 1, HEIGHT - 1]], "shape_type": "mask",
  "mask": base64.b64encode(picture("PNG", "1")).decode(),
}  # fmt: skip
POINT = {"label": "ball", "points": [[9, 9]], "shape_type": "point"}
LINE = {"label": "tea", "points": [[2, 2], [50, 40]], "shape_type": "line"}
ANNOTATION = {
  "version": "5.0", "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH,
  "shapes": [SHAPE, SHAPE | {"label": "Cup of tea"}, CIRCLE, MASK, LINE, POINT],
  "imageData": "/9j/4AAQ",
}  # fmt: skip


@functools.cache
def tokenizer():
  return train_bpe([turn["value"] for turn in DIALOGUE], vocab_size=300)


@functools.cache
def data_config():
  shapes = {"max_len": 512, "max_masks": 4, "sam_size": 32, "aux_size": 32}
  return examples.DataConfig(**shapes, num_image_tokens=4)


def attack_image(folder, rng):
  kind, mode, options = rng.choice(FORMATS)
  data = mutate.harm_bytes(picture(kind, mode, **options), rng)
  if rng.random() < 0.1:  # one kind's head on another's body
    data = data[: rng.randrange(64)] + picture("JPEG", "RGB")[rng.randrange(64) :]
  image_ops.image_size(data)
  examples.make_views(data, data_config())


def _read_prist(folder):
  """Everything that check, stats, training and evaluation do with a list."""
  dataset = prist.read_dataset(folder, "val")
  for i in range(len(dataset)):
    dataset.examine(i)
    record = dataset.load(i)
    if isinstance(record, RecordError):
      str(record)
      continue
    examples.make_row(record, tokenizer(), data_config())
    views = examples.make_views(record.image, data_config())
    examples.make_masks(record.targets, views["original_hw"], data_config())
  dataset.fingerprint()


def _write_prist(folder, records, annotation, image=None):
  for name, data in (
    ("val.json", records),
    ("masks/a.json", annotation),
    ("images/a.png", image or picture("PNG", "RGB")),
  ):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def attack_labelme(folder, rng):
  document = mutate.harm_json(ANNOTATION, rng)
  _write_prist(folder, RECORDS, mutate.write_json(document, rng))
  _read_prist(folder)


def attack_polygon(folder, rng):
  """Outlines of up to 20,000 points, in and far outside the picture."""
  count = rng.choice((3, 10, 100, 3000, 20_000))
  reach = rng.choice((1, 10, 1e4, 1e6)), rng.choice((1, 10, 1e4, 1e6))
  draw = np.random.default_rng(rng.randrange(2**32)).uniform(-1, 1, (count, 2))
  if rng.random() < 0.3:  # a zig-zag
    draw[:, 0], draw[:, 1] = np.linspace(0, 1, count), np.arange(count) % 2
  points = np.clip(draw * [WIDTH, HEIGHT] * reach, -1e6, 1e6).tolist()
  shapes = [SHAPE | {"points": points}] * rng.choice((1, 1, 3))
  _write_prist(folder, RECORDS, ANNOTATION | {"shapes": [*shapes, CIRCLE]})
  _read_prist(folder)


def attack_dialogue(folder, rng):
  records = mutate.harm_json(RECORDS, rng)
  _write_prist(folder, mutate.write_json(records, rng), ANNOTATION)
  _read_prist(folder)


def attack_photo(folder, rng):
  """A harmed photograph as a record's image."""
  kind, mode, options = rng.choice(FORMATS)
  image = mutate.harm_bytes(picture(kind, mode, **options), rng, times=1)
  _write_prist(folder, RECORDS, ANNOTATION, image)
  _read_prist(folder)


def attack_safetensors(folder, rng):
  names = ("a.weight", "b.weight", "c.bias")
  header, at = {"__metadata__": {"format": "pt"}}, 0
  for name in names:
    header[name] = {"dtype": "F32", "shape": [3, 5], "data_offsets": [at, at + 60]}
    at += 60
  if rng.random() < 0.6:
    header = mutate.harm_json(header, rng)
  text = mutate.write_json(header, rng)
  data = struct.pack("<Q", len(text)) + text + bytes(at)
  path = folder / "model.safetensors"
  path.write_bytes(mutate.harm_bytes(data, rng) if rng.random() < 0.5 else data)
  _read_all(SafetensorsFile(path))


def attack_torch(folder, rng):
  path = folder / "pytorch_model.bin"
  pickle = torch_pickle()
  if rng.random() < 0.6:
    pickle = mutate.harm_bytes(pickle, rng)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle)
    archive.writestr("archive/data/0", bytes(60))
    archive.writestr("archive/version", "3\n")
  if rng.random() < 0.5:
    path.write_bytes(mutate.harm_bytes(path.read_bytes(), rng))
  _read_all(TorchFile(path))


def _read_all(file):
  with file:
    for name, info in file.infos.items():
      if math.prod(info.shape) < 1 << 20:
        file.read(name)


def torch_pickle() -> bytes:
  """What torch.save writes for {"weight": a (3, 5) float32 tensor}, by hand."""

  def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()

  def number(value):
    return b"J" + struct.pack("<i", value)

  def several(*values):
    return b"(" + b"".join(values) + b"t"

  storage = several(
    text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), number(15)
  )
  hooks = b"ccollections\nOrderedDict\n)R"
  tensor = several(
    storage + b"Q", number(0), several(number(3), number(5)),
    several(number(5), number(1)), b"\x89", hooks,
  )  # fmt: skip
  rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"R"
  return b"\x80\x02}(" + text("weight") + rebuilt + b"u."


@functools.cache
def _tokenizer_files():
  import tempfile

  with tempfile.TemporaryDirectory() as root:
    tokenizer().save(pathlib.Path(root) / "tokenizer")
    files = pathlib.Path(root, "tokenizer").iterdir()
    return {path.name: path.read_bytes() for path in sorted(files)}


def attack_tokenizer(folder, rng):
  files = dict(_tokenizer_files())
  name = rng.choice([*files, "tokenizer.json"])
  if rng.random() < 0.6 and name.endswith(".json"):
    document = mutate.harm_json(json.loads(files[name]), rng)
    files[name] = mutate.write_json(document, rng)
  else:
    files[name] = mutate.harm_bytes(files[name], rng)
  for path, data in files.items():
    (folder / path).write_bytes(data)
  found = load_tokenizer(folder)
  found.decode(found.encode("Where is the cup?"))
  found.fingerprint()


def attack_config_json(folder, rng):
  document = mutate.harm_json(json.loads(run_config.RunConfig().to_json()), rng)
  path = folder / "config.json"
  path.write_bytes(mutate.write_json(document, rng))
  config_file.read(str(path)).to_json()


def attack_config_option(folder, rng):
  """`--config.a.b=VALUE`, the model's sizes among them."""
  names = [one.option for one in run_config.settings()]
  names += [f"model.overrides.{name}" for name in _sizes()]
  fields = []
  for _ in range(rng.randint(1, 3)):
    value = mutate.value(rng, before=rng.choice((1, "a")))
    fields.append((rng.choice(names), value if isinstance(value, str) else repr(value)))
  config_file.read("prist_quickstart", fields).to_json()


@functools.cache
def _sizes():
  import dataclasses

  from miras_jax.config.variants import VARIANTS

  tiny = VARIANTS["tiny"]
  return [
    f"{part.name}.{field.name}"
    for part in dataclasses.fields(tiny)
    if dataclasses.is_dataclass(getattr(tiny, part.name))
    for field in dataclasses.fields(getattr(tiny, part.name))
  ]


def attack_metrics(folder, rng):
  rows = [{"step": i, "loss": 1 / (1 + i), "ciou": 0.5} for i in range(20)]
  lines = (mutate.write_json(mutate.harm_json(row, rng), rng) for row in rows)
  path = folder / "metrics.jsonl"
  path.write_bytes(b"\n".join(lines))
  from miras_jax.evaluation import report

  report.save_curves(folder / "curves.png", report.read_curves(path)[0])
  metrics_log.drop_after(path, 10)
  assert metrics_log.read_rows(path)[1] == 0, "drop_after kept what is no row"


def attack_synth(folder, rng):
  recipe = {"conversations": 9, "seed": 0, "recipe": synth.RECIPE}
  if rng.random() < 0.5:
    recipe = mutate.harm_json(recipe, rng)
  (folder / synth.MARKER).write_bytes(mutate.write_json(recipe, rng))
  for split in ("train", "val", "test"):
    (folder / f"{split}.json").write_bytes(mutate.write_json(RECORDS, rng))
  synth.generate(folder, 9, 0)


def attack_cache(folder, rng):
  manifest = {"features": {"sam_features": [2, 2, 8]}, "parts": 1, "images": "x"}
  if rng.random() < 0.5:
    manifest = mutate.harm_json(manifest, rng)
  part = {"bytes": 4, "images": [["a.png", "0" * 64]]}
  (folder / "cache.json").write_bytes(mutate.write_json(manifest, rng))
  name = feature_cache.part_name(0)
  (folder / f"{name}.json").write_bytes(
    mutate.write_json(mutate.harm_json(part, rng), rng)
  )
  (folder / f"{name}.array_record").write_bytes(b"none")
  cache = feature_cache.FeatureCache(folder)
  cache.check_images(["a.png"])
  cache.views(b"", "a.png")


ATTACKS = {
  name.removeprefix("attack_"): value
  for name, value in list(globals().items())
  if name.startswith("attack_")
}


def attempt(name, folder, rng) -> str:
  """ "read" or "refused", or raises what is a failure."""
  try:
    ATTACKS[name](folder, rng)
    return "read"
  except UserError as error:
    if not str(error).strip():
      raise AssertionError("a refusal that says nothing") from error
    return "refused"
