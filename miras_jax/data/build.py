"""`miras data build`: the files of a source -> ArrayRecord that every command reads.

Options of a source follow its name as `--NAME=VALUE` (`miras data build own --help`).
Prints `FILE:RECORD: reason` for each entry that could not be used, counts beside the
published ones, and exits 1 when more than --max_rejected were rejected.
"""

import inspect
import json
import pathlib
import tempfile

from etils import epath
from tqdm import tqdm

from input_pipeline.builders import build as builders_build
from input_pipeline.builders import finish, registry
from input_pipeline.records import Problem
from miras_jax.checkpoint import lock
from miras_jax.errors import UserError
from miras_jax.options import Parser

COUNTS = ("conversations", "images", "targets", "empty_targets", "rejected")


def main(argv) -> int:
  """Builds; 1 when too many entries were rejected. UserError for what cannot be."""
  parser = _parser()
  name = argv[0] if argv and argv[0] in registry.BUILDERS else None
  if name and {"-h", "--help"} & set(argv):
    parser.epilog = describe(name)
  args, extra = parser.parse_known_args(argv)
  builder = registry.make(args.name, **options(args.name, extra))
  if args.num_workers < 0:
    raise UserError(f"--num_workers={args.num_workers}: want 0 or more")
  remote = "://" in args.out
  for option in ("src", "out"):
    if not getattr(args, option):
      raise UserError(f"--{option}= is empty: name a folder")
  local = pathlib.Path(scratch(args) if remote else args.out)
  _make(local)
  with lock.hold(local, "miras data build"):
    there = builders_build.is_finished(builder.card, local)
    folder = builders_build.build(
      builder,
      args.src,
      local,
      only=tuple(filter(None, args.only.split(","))),
      num_workers=args.num_workers,
    )
  splits = json.loads((folder / finish.NAME).read_text())["splits"]
  print_lines(folder, splits, "notes", "warning: ")
  rejected = print_lines(folder, splits, "rejected")
  if not any(counts["examples"] for counts in splits.values()):
    raise UserError(f"{folder}: nothing could be used, {rejected} entries are rejected")
  print(table(splits, builder.card.published))
  if remote:
    folder = upload(folder, epath.Path(args.out) / builder.card.name)
  total = sum(counts["conversations"] for counts in splits.values())
  print(f"{folder}: {total:,} conversations, {rejected:,} entries rejected")
  if there:
    print("it was built before and is left as it is; remove it to build it anew")
  return int(rejected > args.max_rejected)


def _parser():
  parser = Parser(
    prog="miras data build",
    description=__doc__,
    epilog="data sets (`miras data build NAME --help` says more):\n" + _listed(),
  )
  parser.add_argument("name", metavar="NAME", choices=tuple(registry.BUILDERS))
  parser.add_place("--src", required=True, help="folder of the source, or gs://...")
  parser.add_place("--out", required=True, help="folder to build in, or gs://...")
  parser.add_argument("--only", default="", help="splits to build, e.g. train,val")
  parser.add_argument("--num_workers", type=int, default=2, help="processes (2)")
  parser.add_argument(
    "--max_rejected", type=int, default=0, help="exit 0 up to so many rejected (0)"
  )
  parser.add_path("--scratch", help="local folder where a build for a bucket is made")
  return parser


def _listed():
  cards = [(name, registry.make(name).card) for name in registry.BUILDERS]
  return "\n".join(f"  {name:22}{card.title}" for name, card in cards)


def describe(name) -> str:
  """What `--help` says of one source: its layout, licence and options."""
  card = registry.make(name).card
  options = [f"  --{k}={p.default}" for k, p in registry.options(name).items()]
  return "\n".join(
    (
      f"{card.title}, version {card.version}\n\n{card.description}",
      f"\nfrom {card.homepage}\nlicence: {card.licence}",
      f"\nexpected below --src:\n{card.layout.rstrip()}",
      "\noptions and their defaults:",
      *(options or ["  none"]),
    )
  )


def options(name, extra) -> dict:
  """`--key=value` pairs of a source -> arguments of its builder, of its types."""
  known = registry.options(name)
  values = {}
  for text in extra:
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals or key not in known:
      listed = ", ".join(f"--{key}=" for key in known) or "none"
      raise UserError(
        f"miras data build {name}: {text} is no option; there are {listed}"
      )
    values[key] = _typed(f"--{key}", value, known[key])
  return values


def _typed(option, text, parameter: inspect.Parameter):
  kind = type(parameter.default)
  if kind is bool:
    if text.lower() not in ("true", "false"):
      raise UserError(f"{option}={text}: want true or false")
    return text.lower() == "true"
  try:
    return kind(text) if kind in (int, float) else text
  except ValueError:
    wanted = "a whole number" if kind is int else "a number"
    raise UserError(f"{option}={text}: want {wanted}") from None


def scratch(args) -> str:
  """Where a build for a bucket is made: kept between calls, so that it goes on."""
  if args.scratch:
    return args.scratch
  name = "".join(c if c.isalnum() else "_" for c in args.out)
  return str(pathlib.Path(tempfile.gettempdir()) / f"miras_build_{name}")


def _make(folder):
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None


def print_lines(folder, splits, kind, before="") -> int:
  """One line for each rejected entry, or note; returns their number."""
  count = 0
  for split in splits:
    with open(folder / f"{kind}-{split}.jsonl", encoding="utf-8") as lines:
      for line in lines:
        print(f"{before}{Problem(*json.loads(line))}")
        count += 1
  return count


def table(splits, published) -> str:
  """Counts of each split, beside those that the authors state."""
  lines = [f"{'split':12}{'':16}{'built':>12}{'published':>12}"]
  for split, counts in splits.items():
    stated = published.get(split, {})
    for name in dict.fromkeys((*COUNTS, *stated)):
      built = f"{counts[name]:,}" if name in counts else "-"
      said = f"{stated[name]:,}" if name in stated else "-"
      lines.append(f"{split:12}{name:16}{built:>12}{said:>12}")
  return "\n".join(lines)


def upload(folder, target):
  """Copies a built data set into a bucket, what makes it one last."""
  target = target / folder.name
  target.mkdir(parents=True, exist_ok=True)
  last = ("features.json", "dataset_info.json", finish.NAME)
  files = sorted(
    (path for path in folder.iterdir() if path.is_file() and path.name[0] != "."),
    key=lambda path: (last.index(path.name) if path.name in last else -1, path.name),
  )
  for path in tqdm(files, "copying", unit="file"):
    epath.Path(path).copy(target / path.name, overwrite=True)
  return target
