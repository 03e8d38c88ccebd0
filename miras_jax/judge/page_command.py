"""Writes a page on which people rate, not knowing what they see.

  miras judge page --predictions=A/predictions.jsonl --against=B/predictions.jsonl \\
      --images-dir=photos --items=30 --out=page

OUT/page.html       one file that loads nothing: send it to the raters. They write their
                    name, rate, and download ratings.csv; what they did is kept in the
                    browser until then
OUT/page_key.json   which answers each item shows: keep it, and keep it from the raters

`miras judge --human=ratings.csv --key=OUT/page_key.json ...` reads the CSV back.
"""

import hashlib
import json

import numpy as np

from input_pipeline import regular_file
from miras_jax.checkpoint import lock, workdir
from miras_jax.errors import UserError
from miras_jax.judge import command, human, page, pictures, rubric, tasks
from miras_jax.options import Parser

PICTURE_SIDE = 480


def main(argv):
  """`miras judge page ...`."""
  parser = Parser(prog="miras judge page", description=__doc__)
  command.add_input_options(parser)
  parser.add_argument(
    "--items", type=int, default=30, help="conversations, drawn at random (30)"
  )
  args = parser.parse_args(argv)
  command.check_numbers(args, {"limit": 1, "items": 1, "seed": 0})
  out = command.make_folder(args.out)
  with lock.hold(out, "miras judge page"):
    return _write(args, out)


def _write(args, out):
  criteria = rubric.read(args.rubric)
  systems, ids, _ = command.open_systems(args)
  drawn = pictures.open_pictures(args.images_dir, args.data, args.split, PICTURE_SIDE)
  chosen = choose(args, systems, ids)
  known = {system.name: human.identity(system) for system in systems}
  key = {
    "rubric": human.rubric_of(criteria),
    "items": [
      {"item": code, "id": task.id, "systems": [known[name] for name in task.systems]}
      for code, task in chosen
    ],
  }
  text = page.render(chosen, criteria, drawn)
  _keep(out / human.KEY, json.dumps(key, indent=1) + "\n")
  workdir.write_atomically(out / "page.html", text)
  print(f"{len(chosen)} items: {out / 'page.html'} (its key: {out / human.KEY})")
  return 0


def _keep(path, key):
  """Writes the key. UserError where another page's is there: without it, what people
  rated on that page cannot be read."""
  if regular_file.is_there(path):
    if regular_file.read_bytes(path, human.MAX_BYTES) != key.encode():
      raise UserError(f"{path}: is the key of another page; take another --out")
  workdir.write_atomically(path, key)


def choose(args, systems, ids) -> list[tuple[str, tasks.Task]]:
  """(code, task) of each item, in the order of the page; the code says nothing of the
  item, and tells it from those of other pages."""
  rng = np.random.default_rng(args.seed)
  count = min(args.items, len(ids))
  some = [ids[i] for i in sorted(rng.choice(len(ids), count, replace=False))]
  found = [] if args.only == "pairs" else tasks.scores(systems, some)
  if args.only != "scores":
    both = tasks.pairs(systems, some)
    coins = rng.integers(0, 2, len(both) // 2)
    found += [both[2 * i + coin] for i, coin in enumerate(coins)]
  if not found:
    raise UserError("--only=pairs: there is nothing to compare with; give --against")
  order = rng.permutation(len(found))
  known = {system.name: human.identity(system) for system in systems}
  shown = [[found[k].id, *(known[name] for name in found[k].systems)] for k in order]
  mark = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:6]
  return [(f"i{mark}-{place + 1:04d}", found[k]) for place, k in enumerate(order)]
