"""`miras data`: make, check, count and look at a data set in PRIST's layout.

`check` prints one line a problem, `FILE:RECORD: reason`, then the warnings, each after
`warning: `, then a summary; its exit status is 1 if there was any problem.
"""

import pathlib
import sys

from input_pipeline.open_source import open_source
from input_pipeline.records import RecordError
from input_pipeline.source import Source
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.options import Parser

_EXAMPLES = {
  "synth": "miras data synth --out data/synth --conversations 2000 --seed 0",
  "check": "miras data check PRIST --images-dir /photos/textcaps --split test",
  "stats": "miras data stats data/synth --json\n  miras data stats"
  " --config=configs/miras_7b_stage2.py --config.data.dir=DIR --out=stats.png",
  "show": "miras data show data/synth --split val --index 3 --out record.png",
  "cache": "miras data cache --config=configs/miras_7b_stage2.py --out=cache/prist"
  " --config.mixture=none --config.data.dir=PRIST",
}
_LAYOUT = """A data set is a folder with train.json, val.json, ... (lists of {img_id,
dialogue, focus}), photographs in images/ or <split>/ and labelme files in masks/ or
<split>/masks/. Photographs are turned as their EXIF orientation says, unless the size
in the annotation is that of the stored pixels alone, and may have 120 million pixels. A
record equal to an earlier one is kept, with a warning."""
_CACHE = """Takes the --config.a.b=VALUE of the run that will read it. Run again after a
kill, it goes on; with several processes each writes files of its own. What is cached:
sam_features when SAM's image encoder is frozen, image_tokens when CLIP, ConvNeXt, patch
mining and projector all are (and SAM's, where `model.encoder` makes tokens of it)."""


def main(argv=None):
  """Runs `miras data ...`; returns the exit status, raises UserError."""
  argv = sys.argv[1:] if argv is None else list(argv)
  if argv[:1] == ["build"]:
    from miras_jax.data import build  # its options depend on the data set

    return build.main(argv[1:])
  if argv[:1] == ["audit"]:
    from miras_jax.data import audit

    return audit.main(argv[1:])
  if argv[:1] == ["construct"]:
    from miras_jax.data.construct import command

    return command.main(argv[1:])
  if argv[:1] == ["agreement"]:
    from miras_jax.data import agreement

    return agreement.main(argv[1:])
  argv, fields = config_file.split_fields(argv)
  args = _parser().parse_args(argv)
  if fields and not getattr(args, "config", None):
    name = f"--config.{fields[0][0]}"
    raise UserError(f"miras data {args.command}: unknown option {name}")
  args.fields = fields
  return args.run(args)


def _parser():
  parser = Parser(
    prog="miras data",
    description="Make, check, count and look at a data set.",
    epilog=_epilog(*_EXAMPLES, text=_LAYOUT),
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  _add_synth(commands)
  _add_cache(commands)
  commands.add_parser("build", help="turn a published or own data set into ArrayRecord")
  commands.add_parser("audit", help="leaks, contradictions, small and doubtful targets")
  commands.add_parser("construct", help="conversations from photographs, by a model")
  commands.add_parser("agreement", help="how well two annotators agree")
  check = _add(commands, "check", run_check, "print every defect, exit 1 if any")
  stats = _add(commands, "stats", run_stats, "count what is there")
  show = _add(commands, "show", run_show, "draw one record with masks and dialogue")
  _add_draws(stats)
  for command in (check, show):
    command.add_place("dir", metavar="DIR", help="folder of the data set")
  for command in (check, stats, show):
    command.add_place("--images-dir", help="folder of the photographs")
    command.add_place("--masks-dir", help="folder of the labelme files")
  for command in (check, stats):
    command.add_argument("--split", help="only this split, e.g. val")
  stats.add_argument("--json", action="store_true", help="print JSON, not a table")
  show.add_argument("--split", required=True, help="e.g. val")
  show.add_argument("--index", type=int, default=0, help="record in the split, from 0")
  show.add_output("--out", required=True, help="picture to write, e.g. record.png")
  return parser


def _epilog(*names, text):
  lines = "".join(f"\n  {_EXAMPLES[name]}" for name in names)
  return f"example{'s' * (len(names) > 1)}:{lines}\n\n{text}"


def _add(commands, name, run, help_text):
  command = commands.add_parser(
    name,
    help=help_text,
    description=help_text[0].upper() + help_text[1:] + ".",
    epilog=_epilog(name, text=_CACHE if name == "cache" else _LAYOUT),
  )
  command.set_defaults(run=run)
  return command


def _add_synth(commands):
  synth = _add(commands, "synth", run_synth, "make a synthetic data set")
  synth.add_output("--out", required=True, help="folder to make")
  synth.add_argument("--conversations", type=int, default=2000, help="how many")
  synth.add_argument("--seed", type=int, default=0, help="same seed, same data")
  synth.add_argument(
    "--short",
    type=int,
    default=0,
    help="short talks about each training image, beside its conversations",
  )
  synth.add_argument(
    "--edits",
    type=float,
    default=0.0,
    help="share of the conversations that go on from their mask: also, without, only,"
    " the same again, the other one (0)",
  )


def _add_cache(commands):
  cache = _add(commands, "cache", run_cache, "run frozen encoders once over the images")
  cache.add_argument("--config", required=True, help="of the run that will read it")
  cache.add_output("--out", required=True, help="folder of the cache")
  cache.add_argument("--batch_size", type=int, default=8, help="images at a time")
  cache.add_argument("--part_size", type=int, default=128, help="images in a file")


def _add_draws(stats):
  """The options of `stats` beside those of every command that reads a data set."""
  stats.add_place(
    "dirs", metavar="DIR", nargs="*", help="folder; several are a mixture"
  )
  stats.add_argument("--config", help="of a run: what that draws, with its mixture")
  stats.add_argument("--draws", type=int, default=1000, help="examples to look at")
  stats.add_output("--out", help="picture of the histograms to write, e.g. stats.png")


def run_cache(args):
  """Writes the features of every image of a run."""
  from miras_jax.data import cache as data_cache  # starts jax

  return data_cache.main(args)


def run_synth(args):
  """Writes a synthetic data set."""
  from input_pipeline.prepare import synth  # draws with libraries nobody else needs
  from miras_jax.checkpoint import lock  # starts jax

  if args.conversations < 1:
    raise UserError(f"--conversations {args.conversations}: want at least 1")
  if args.short < 0:
    raise UserError(f"--short {args.short}: want 0 or more")
  if not 0 <= args.edits <= 1:
    raise UserError(f"--edits {args.edits}: want a share from 0 to 1")
  out = pathlib.Path(args.out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {out} cannot be made: {error.strerror}") from None
  with lock.hold(out, "miras data synth"):
    synth.generate(out, args.conversations, args.seed, args.short, args.edits)
  return 0


def run_check(args):
  """Prints problems, warnings and a summary line; 1 if there was a problem."""
  from miras_jax.data import check

  return check.run(args)


def run_stats(args):
  """Prints counts of a folder, or of what a run draws, and draws them."""
  from miras_jax.data import stats

  return stats.run(args)


def run_show(args):
  """Writes a picture of one record."""
  from miras_jax.data import show

  source = _open(args, args.split)
  if not 0 <= args.index < len(source):
    raise UserError(
      f"--index {args.index}: {source.file} has records 0 to {len(source) - 1}"
    )
  record = source.load(args.index)
  if isinstance(record, RecordError):
    raise record
  picture = show.draw_record(record)
  try:
    picture.save(args.out)
  except (OSError, ValueError) as e:
    raise UserError(f"--out {args.out}: cannot write this picture: {e}") from None
  print(args.out)
  return 0


def _open(args, split) -> Source:
  return open_source(
    args.dir, split, images_dir=args.images_dir, masks_dir=args.masks_dir
  )
