"""Weights in and out, one tensor at a time.

  miras convert --src=vicuna-7b,clip-vit-l,convnext-l,sam_vit_h.pth --dst=start \\
      --new=projector,mining,seg_prompt         published parts: a start for stage 1
  miras convert --src=vicuna-7b,clip-vit-l,sam_vit_h.pth --dst=start \\
      --set=encoder=shared --new=mining,projector,seg_prompt         no ConvNeXt
  miras convert --from=miras --src=published --dst=ours
  miras convert --src=ours --dst=out --to=miras              and back
  miras convert --src=runs/7b --dst=out --to=hf              a Llama for transformers
  miras convert --dry-run --model=13b                        names and sizes, no weights
  miras convert --compare=runs/stage2,back                   are all numbers the same?
  miras convert --stand-in=tiny --dst=parts                  random published parts

The result appears when it is whole. A run that was stopped goes on where it was.
"""

import contextlib
import json
import math
import pathlib
import shutil

import numpy as np

from miras_jax.config.families import FAMILIES
from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import VARIANTS
from miras_jax.convert import infer, stand_in
from miras_jax.convert.files import stream
from miras_jax.convert.job import expected_shapes, open_job
from miras_jax.convert.outputs import OUTPUTS
from miras_jax.convert.sources import ALIASES
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.convert.tree import NEW_PARTS, describe, empty_at
from miras_jax.errors import UserError
from miras_jax.storage import copies, reach

# Parts of a config that may be absent; elsewhere "none" is a word.
ABSENT = ("convnext", "llama.rope_scaling")
DTYPES = ("keep", "float32", "bfloat16", "float16")


def main(argv):
  """`miras convert [options]`."""
  args = _parser().parse_args(argv)
  if args.verify:
    stream.verify(args.verify)
    print(f"{args.verify}: whole")
  elif args.compare:
    _compare(args)
  elif args.stand_in:
    _stand_in(args)
  elif args.dry_run and not args.src:
    _print_variant(args)
  else:
    _convert(args)
  return 0


def _parser():
  from miras_jax.options import Parser, all_expanded

  kinds = ", ".join(["auto", *KINDS, *ALIASES, *FAMILIES])
  # fmt: off
  parser = Parser(prog="miras convert", description=__doc__)
  add = parser.add_argument
  add("--from", dest="kinds", default="auto",
      help=f"one kind, or one a source: {kinds}")
  add("--src", default="", type=all_expanded, help="files or folders, joined by commas")
  parser.add_output("--dst", default="", help="new folder to write")
  add("--to", choices=sorted(OUTPUTS), default="ours", help="format to write")
  add("--dtype", choices=DTYPES, default="keep", help="of the numbers written")
  add("--merge-lora", action="store_true", help="add the adapters to their kernels")
  add("--new", default="", help=f"parts to start from random values: {NEW_PARTS}")
  add("--seed", type=int, default=0, help="of the random values")
  parser.add_input("--tokenizer", default="",
      help="file or folder, if not beside the weights; none: without")
  add("--set", action="append", default=[], metavar="FIELD=VALUE",
      help="a field of the model's config that its weights do not show")
  add("--shard-gb", type=float, default=stream.SHARD_BYTES / 1e9,
      help="largest file in GB")
  add("--dry-run", action="store_true", help="print the mapping, write nothing")
  add("--model", default="", choices=VARIANTS,
      help="a size of ours, for what no weight shows (heads, picture sizes); for"
      " --dry-run without --src")
  parser.add_input("--verify", default="", metavar="DIR",
                   help="compare a result with its manifest")
  add("--compare", default="", metavar="DIR,DIR",
      help="two folders, of training or converted: are they equal, bit for bit?")
  add("--leaves", default="", metavar="REGEX", help="only these paths, of --compare")
  add("--stand-in", choices=stand_in.SIZES,
      help="write random Vicuna, CLIP, ConvNeXt and SAM in their published layouts")
  # fmt: on
  return parser


def _convert(args):
  paths = [p for p in args.src.split(",") if p]
  if not paths:
    raise UserError("--src=PATH[,PATH...] is missing (or --dry-run --model=7b)")
  if not args.dst and not args.dry_run:
    raise UserError("--dst=DIR is missing: the new folder to write")
  if args.dst:
    check_new(args.dst)
  options = {
    "kinds": args.kinds,
    "to": args.to,
    "tokenizer": args.tokenizer,
    "overrides": infer.unseen(args.model) | _settings(args.set),
    "new": [p for p in args.new.split(",") if p],
    "seed": args.seed,
    "merge_lora": args.merge_lora,
    "dtype": args.dtype,
  }
  with contextlib.closing(open_job(paths, dry_run=args.dry_run, **options)) as job:
    if args.dry_run:
      _print_job(job)
    else:
      _write(job, args, options)


def check_new(dst):
  """UserError when the folder is there, locally or in a bucket."""
  if place := copies.place_of(dst):
    if reach.is_folder(place):
      raise UserError(f"--dst={place} exists already; name a new folder")
    shutil.rmtree(dst, ignore_errors=True)  # made by an earlier call, and not copied
  stream.check_free(pathlib.Path(dst))


def _write(job, args, options):
  output = OUTPUTS[args.to]
  shards, texts, copies = output.make(job, int(args.shard_gb * 1e9))
  sources = [source.identity() for source in job.sources]
  stream.write_folder(
    args.dst,
    shards,
    texts,
    identity=[sources, options],
    note=output.note | {"sources": sources, "options": options, "new": job.new},
    copies=copies,
  )
  size = sum(shard.size for shard in shards)
  print(f"{args.dst}: {len(shards)} files, {size / 1e9:,.2f} GB, --to={args.to}")


def _compare(args):
  from miras_jax.convert.compare import compare  # orbax: seconds, only needed here

  paths = [p for p in args.compare.split(",") if p]
  if len(paths) != 2:
    raise UserError(f"--compare={args.compare}: want two folders, DIR,DIR")
  print(f"{' and '.join(paths)}: {compare(paths, leaves=args.leaves)} leaves are equal")


def _stand_in(args):
  if not args.dst:
    raise UserError("--dst=DIR is missing: the new folder to write")
  stand_in.write(args.dst, args.stand_in, seed=args.seed)
  print(
    f"{args.dst}: {args.stand_in} vicuna, clip, convnext, sam.pth of random numbers"
  )


def _settings(items):
  """["clip.num_heads=4"] -> {"clip.num_heads": 4}."""
  found = {}
  for item in items:
    name, equals, text = item.partition("=")
    if not equals:
      raise UserError(f"--set={item}: want FIELD=VALUE, e.g. --set=clip.num_heads=4")
    try:
      absent = text == "none" and name in ABSENT
      found[name] = None if absent else json.loads(text)
    except ValueError:
      found[name] = text
  return found


def _print_job(job):
  """The mapping of given sources, and its size."""
  infos = job.tree.infos
  if job.plan is not None:
    print("\n".join(describe(job.plan)))
  else:
    print("\n".join(f"{path} {infos[path]}" for path in sorted(infos)))
  for path in job.new:
    print(f"(random) {list(infos[path].shape)} -> {path}")
  count = sum(math.prod(info.shape) for info in infos.values())
  size = sum(info.nbytes for info in infos.values())
  print(f"{len(infos)} leaves, {count:,} parameters, {size / 1e9:,.2f} GB")


def _print_variant(args):
  """The mapping of a published size without any file."""
  kind = ALIASES.get(args.kinds, args.kinds)
  kind = "miras" if kind == "auto" else kind
  if kind not in KINDS:
    raise UserError(f"unknown --from={kind}; there are {', '.join(KINDS)}")
  model = args.model or "7b"
  # The published model never saved its alignment.
  overrides = {"seg_prompt.alignment": "none"} | _settings(args.set)
  try:
    cfg = with_overrides(VARIANTS[model], overrides)
  except (ValueError, TypeError) as error:
    raise UserError(f"--set: {error}") from None
  shapes = expected_shapes(cfg)
  shapes = {p: s for p, s in shapes.items() if _has(KINDS[kind], p)}
  for key, origin in KINDS[kind].origins(shapes).items():
    empty = (empty_at(shapes[place.path], place) for place in origin.places)
    shape = list(origin.rule.inverse(*empty).shape)
    print(f"{key} {shape} -> {', '.join(map(str, origin.places))}")
  count = sum(math.prod(s) for s in shapes.values())
  dtype = np.dtype("bfloat16" if args.dtype == "keep" else args.dtype)
  print(
    f"{model}: {len(shapes)} leaves, {count:,} parameters,"
    f" {count * dtype.itemsize / 1e9:,.2f} GB in {dtype.name}"
  )


def _has(table, path):
  try:
    table.stacked(path)
  except UserError:
    return False
  return True
