"""Images a second from files to batches: ours against a torch DataLoader.

Both read the same photographs (JPEG, --height x --width), labelme files and dialogues,
and make the same three views, token rows and masks with the same number of workers.

  published     torch.utils.data.DataLoader as PyTorch users write it: OpenCV decodes,
                Pillow resizes to the SAM canvas, `transformers`' CLIP image processor
                makes the second view, pixels are normalised to float32, masks are drawn
                by OpenCV and tokens come from our tokenizer; batches by torch.stack
  same          torch's DataLoader around our own examples: equal work and bytes, so
                that what is left is worker processes against threads
  folder        ours, from a folder in PRIST's layout; uint8 to the device
  arrayrecord   ours, from what `miras data build` makes of that folder

Sides take turns, medians are compared. Needs `pip install torch==2.13.0`.

  miras bench input
  miras bench input --workers=2 --photos=64 --rounds=5 --sides=published,folder
"""

import functools
import json
import pathlib
import tempfile

import cv2
import numpy as np

from input_pipeline.builders import build, registry
from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig
from input_pipeline.open_source import open_source
from input_pipeline.pipeline import make_pipeline
from input_pipeline.tokenizer import train_bpe
from miras_jax.benchmarks.step import import_torch_side
from miras_jax.benchmarks.turns import split_sides, take_turns
from miras_jax.errors import UserError
from miras_jax.options import Parser

SIDES = ("published", "same", "folder", "arrayrecord")
ROUNDS_OF_TALK = 4  # as most of PRIST's dialogues
CORNERS = 30  # of a target's outline
BATCH = 4


def main(argv):
  """Runs the benchmark; returns 0."""
  args = parse(argv)
  sides = split_sides(args.sides, SIDES)
  with tempfile.TemporaryDirectory() as root:
    makers = _makers(args, pathlib.Path(root), sides)
    seconds = take_turns({name: makers[name] for name in sides}, args.rounds)
  return report(args, sides, seconds)


def parse(argv):
  """The options, checked."""
  parser = Parser(prog="miras bench input", description=__doc__)
  parser.add_argument("--photos", type=int, default=48, help="in a pass (48)")
  parser.add_argument("--workers", type=int, default=2, help="threads, processes (2)")
  parser.add_argument("--rounds", type=int, default=3, help="timed passes a side (3)")
  parser.add_argument("--height", type=int, default=480, help="of a photograph (480)")
  parser.add_argument("--width", type=int, default=640, help="of a photograph (640)")
  parser.add_argument("--sides", default=",".join(SIDES), help="which to time (all)")
  args = parser.parse_args(argv)
  for name in ("photos", "workers", "rounds", "height", "width"):
    if getattr(args, name) < 1:
      raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
  return args


def report(args, sides, seconds) -> int:
  """Prints images a second and the ratios to the torch sides."""
  print(
    f"{args.photos} photographs of {args.width}x{args.height}, {args.workers} workers,"
    f" batches of {BATCH}"
  )
  for name in sides:
    against = [
      f"{seconds[other] / seconds[name]:.2f}x {other}"
      for other in sides
      if other in ("published", "same") and other != name
    ]
    print(f"{name:12}{args.photos / seconds[name]:8.1f} images/s  {', '.join(against)}")
  if {"folder", "arrayrecord"} <= set(sides):
    ratio = seconds["folder"] / seconds["arrayrecord"]
    print(f"ArrayRecord reads {ratio:.2f}x as many images a second as the folder")
  return 0


def _makers(args, root, sides):
  """{side: a function that makes `args.photos` examples in batches}."""
  folder = write_photos(root / "prist", args)
  source = open_source(folder, "train")
  texts = (t for said in source.dialogues() for t in plain_texts(said.turns))
  tokenizer = train_bpe(texts, 1024)
  cfg = DataConfig(
    max_len=1024,
    max_masks=1,
    sam_size=1024,
    aux_size=768,
    num_image_tokens=576,
    view="center_crop",
  )
  torch_side = None
  if {"published", "same"} & set(sides):
    import_torch_side("input")
    from miras_jax.benchmarks import torch_input as torch_side
  makers = {"folder": functools.partial(_ours, source, tokenizer, cfg, args)}
  if torch_side:
    makers["published"] = torch_side.passes(folder, tokenizer, cfg, args, BATCH)
    makers["same"] = torch_side.passes_of_ours(source, tokenizer, cfg, args, BATCH)
  if "arrayrecord" in sides:
    build.build(registry.make("prist"), folder, root / "built")
    built = open_source(root / "built", "train")
    makers["arrayrecord"] = functools.partial(_ours, built, tokenizer, cfg, args)
  return makers


def _ours(source, tokenizer, cfg, args):
  """One pass of our pipeline over a source."""
  batches = make_pipeline(
    source,
    tokenizer,
    cfg,
    batch_size=BATCH,
    seed=0,
    shuffle=True,
    repeat=False,
    num_threads=args.workers,
  )
  for _ in batches:
    pass
  batches.close()


def write_photos(root, args):
  """A folder in PRIST's layout with one dialogue about each photograph."""
  rng = np.random.default_rng(0)
  for folder in ("images", "masks"):
    (root / folder).mkdir(parents=True)
  records = []
  for i in range(args.photos):
    name = f"{i:05d}"
    _, data = cv2.imencode(".jpg", _photo(rng, args), [cv2.IMWRITE_JPEG_QUALITY, 90])
    (root / "images" / f"{name}.jpg").write_bytes(data.tobytes())
    annotation = _annotation(rng, args)
    (root / "masks" / f"{name}.json").write_text(json.dumps(annotation))
    records.append({"img_id": f"{name}.jpg", "dialogue": _talk(i), "focus": "thing"})
  (root / "train.json").write_text(json.dumps(records))
  return root


def _photo(rng, args):
  """A smooth picture with grain: JPEG takes about as many bytes as for a photograph."""
  coarse = rng.integers(0, 256, (args.height // 40 + 1, args.width // 40 + 1, 3))
  smooth = cv2.resize(coarse.astype(np.float32), (args.width, args.height))
  grain = rng.normal(0, 8, smooth.shape)
  return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def _annotation(rng, args):
  angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
  radius = min(args.height, args.width) * rng.uniform(0.1, 0.2, CORNERS)
  x = args.width / 2 + radius * np.cos(angle)
  y = args.height / 2 + radius * np.sin(angle)
  points = np.stack([x, y], axis=1).round(2).tolist()
  shape = {"label": "thing", "points": points, "shape_type": "polygon"}
  sides = {"imageHeight": args.height, "imageWidth": args.width}
  return {"shapes": [shape], **sides}


def _talk(i):
  turns = []
  for k in range(ROUNDS_OF_TALK):
    last = k == ROUNDS_OF_TALK - 1
    ask = f"What about part {k} of picture {i}: which of the things here do you mean?"
    answer = "It is [SEG]." if last else "There are several, please say more of it."
    turns += [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}]
  return turns
