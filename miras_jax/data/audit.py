"""`miras data audit DIR`: what is wrong with data though every record can be read.

Leaks between splits, and between data sets with --against: equal pixels, pictures that
look alike (perceptual hash and thumbnail), equal ids. Texts that name a side or a
colour that the mask contradicts: suspicions, with their numbers. Ambiguous names,
targets of few pixels, coordinates from 0 to 1, control tokens in texts, defective
records.

Exit status 1 where there is a kind of finding marked with * in the summary: a leak, a
contradiction, coordinates from 0 to 1 or a defective record; the others are notes.
--out=DIR writes audit.html with pictures of the worst of each kind and audit.json with
every finding.
"""

import json
import pathlib

from tqdm import tqdm

from input_pipeline import words
from input_pipeline.audit.findings import KINDS, Findings, collected
from input_pipeline.audit.run import Part, audit
from input_pipeline.open_source import find_splits, open_source
from input_pipeline.records import RecordError
from miras_jax.data import audit_page
from miras_jax.errors import UserError
from miras_jax.options import Parser

_SHOWN = 5  # of each kind, on the screen
_EXAMPLE = """examples:
  miras data audit PRIST --out=audit
  miras data audit built/refcoco --splits=val,test --against PRIST built/refclef

DIR is a folder in PRIST's layout or one that `miras data build` wrote."""


def main(argv) -> int:
  """Runs the audit; 1 where something fails it. UserError for data that cannot be read
  at all."""
  args = _parser().parse_args(argv)
  for name, least in (("min_pixels", 0), ("threads", 1)):
    if getattr(args, name) < least:
      raise UserError(f"--{name}={getattr(args, name)}: want {least} or more")
  known = words.load(args.words)
  if args.out:
    _make(args.out)
  with collected() as findings:
    parts, unreadable = _parts(args)
    audit(
      parts,
      findings,
      known,
      least_pixels=args.min_pixels,
      threads=args.threads,
      progress=_progress,
    )
    for line in unreadable:
      print(line)
    print("\n".join(summary(parts, findings)))
    if args.out:
      _write(pathlib.Path(args.out), args.dir, parts, findings, unreadable)
    return int(findings.fails or bool(unreadable))


def _parser():
  parser = Parser(prog="miras data audit", description=__doc__, epilog=_EXAMPLE)
  parser.add_argument("dir", metavar="DIR", help="data set to audit")
  parser.add_argument(
    "--against", nargs="+", default=[], metavar="DIR2", help="data sets to keep apart"
  )
  parser.add_argument("--splits", default="", help="only these splits of DIR: val,test")
  parser.add_place("--images-dir", help="folder of the photographs of DIR")
  parser.add_place("--masks-dir", help="folder of the labelme files of DIR")
  parser.add_argument(
    "--min_pixels", type=int, default=64, help="of a target that is not small (64)"
  )
  parser.add_argument("--threads", type=int, default=2, help="that read records (2)")
  parser.add_path(
    "--words", default="", help="words of sides and colours, as words.json"
  )
  parser.add_output("--out", help="folder for audit.html and audit.json")
  return parser


def _parts(args):
  """(parts, lines about lists that cannot be read): others first, then train."""
  parts, unreadable = [], []
  for place in args.against:
    for split in _in_order(find_splits(place)):
      parts.append(Part(f"{place}/{split}", open_source(place, split), audited=False))
  wanted = [name.removesuffix(".json") for name in args.splits.split(",") if name]
  folders = {"images_dir": args.images_dir, "masks_dir": args.masks_dir}
  for split in _in_order(wanted or find_splits(args.dir)):
    try:
      source = open_source(args.dir, split, **folders)
    except RecordError as error:
      unreadable.append(str(error))
      continue
    parts.append(Part(source.file, source))
  return parts, unreadable


def _in_order(splits):
  """What is trained on first, so that a leak is named where it was held out."""
  return sorted(splits, key=lambda name: (not name.startswith("train"), name))


def _progress(numbers, text):
  return tqdm(numbers, desc=f"auditing {text}", unit="record", leave=False)


def summary(parts: list[Part], findings: Findings) -> list[str]:
  """Lines: a few findings of each kind, the worst first, then the counts."""
  lines = []
  for kind, worst in findings.worst.items():
    lines += [f"{kind}: {finding}" for finding in worst[:_SHOWN]]
    if (more := findings.counts[kind] - _SHOWN) > 0:
      lines.append(f"{kind}: ... and {more:,} more")
  audited = [part for part in parts if part.audited]
  records = sum(len(part.source) for part in audited)
  lines.append(f"{records:,} records of {', '.join(part.name for part in audited)}:")
  for kind, (text, fails) in KINDS.items():
    count = findings.counts[kind]
    mark = "*" if fails and count else " "
    lines.append(f"{mark} {count:8,}  {kind:18}{text}")
  return lines


def _make(folder):
  try:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None


def _write(out, place, parts, findings, unreadable):
  """audit.json, streamed, and audit.html."""
  with open(out / "audit.json", "w", encoding="utf-8") as file:
    head = {
      "data": str(place),
      "records": {part.name: len(part.source) for part in parts if part.audited},
      "against": [part.name for part in parts if not part.audited],
      "unreadable": unreadable,
      "fails": findings.fails or bool(unreadable),
      "counts": findings.counts,
    }
    file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2])
    file.write(',\n "findings": [')
    for number, row in enumerate(findings.rows()):
      file.write(",\n  " if number else "\n  ")
      file.write(json.dumps(row, ensure_ascii=False))
    file.write("\n ]\n}\n")
  page = audit_page.render(place, parts, findings, unreadable)
  (out / "audit.html").write_text(page, encoding="utf-8")
  print(out / "audit.html")
