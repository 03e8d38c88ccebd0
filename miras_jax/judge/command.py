"""Rates the answers of a model by language models, and by people.

  export OPENAI_API_KEY=...
  miras judge --predictions=report/predictions.jsonl --model=gpt-4o --out=judged \\
      --endpoint=https://api.openai.com/v1 --data=data/synth --split=val
  miras judge --predictions=A/predictions.jsonl --against=B/predictions.jsonl \\
      --against=gold --model=Qwen/Qwen3-VL-8B-Instruct \\
      --endpoint=http://localhost:8000/v1 --images-dir=photos --out=judged
  miras judge page --predictions=A/predictions.jsonl --images-dir=photos --out=page
  miras judge --predictions=A/predictions.jsonl --human=page/ratings.csv \\
      --model=gpt-4o --endpoint=https://api.openai.com/v1 --out=judged
  miras judge --predictions=A/predictions.jsonl --model=rules --out=judged

Each conversation gets 1 to 5 for progressiveness, logical coherence, content
consistency and target relevance; with --against each two systems are compared, in both
orders, and two orders that disagree are a tie. Probes (a blank image, another
conversation's answers) say how far a judge looks at what it rates. --model may be
repeated: agreement between judges is reported, and with people (--human=CSV).
--model=rules counts words: it is for tests of this command, not for ratings.

Every reply is kept in OUT/replies.sqlite under its request: a run that was cut goes on,
and the same command with --offline makes the same files again without asking anyone.

OUT/judge.json      every number with its 95 % interval over images
OUT/scores.jsonl    one score request a line, with the judge's reason
OUT/pairs.jsonl     one comparison a line
"""

import pathlib
import sys

import tqdm

from miras_jax.checkpoint import lock
from miras_jax.errors import UserError
from miras_jax.judge import conversations, human, pictures, results, rubric, summary
from miras_jax.judge import rules as offline_rules
from miras_jax.judge import tasks as questions
from miras_jax.judge.language_model import LanguageModelJudge
from miras_jax.judge.ratings import Answer
from miras_jax.llm import cost, pool
from miras_jax.llm import options as llm_options
from miras_jax.llm.client import Client
from miras_jax.llm.pace import Pace
from miras_jax.llm.store import Store
from miras_jax.options import Parser, local_path

STORE = "replies.sqlite"
PICTURE_SIDE = 768


def main(argv):
  """`miras judge ...`; see the module's head."""
  if argv[:1] == ["page"]:
    from miras_jax.judge import page_command

    return page_command.main(argv[1:])
  args = _parse(argv)
  rules_of_rating = rubric.read(args.rubric)
  systems, ids, notes = open_systems(args)
  people = _read_people(args, systems, rules_of_rating)
  out = make_folder(args.out)
  with lock.hold(out, "miras judge"):
    return _judge(args, out, rules_of_rating, (systems, ids, notes), people)


def _judge(args, out, rules_of_rating, opened, people):
  """Estimates, asks, writes; the exit status. opened: of `open_systems`."""
  systems, ids, notes = opened
  with_pictures = pictures.open_pictures(
    args.images_dir, args.data, args.split, PICTURE_SIDE
  )
  judges = _make_judges(args, out, rules_of_rating, with_pictures)
  work = [(judge, _tasks(args, judge, systems, ids)) for judge in judges]
  for judge, todo in work:
    _estimate(args, judge, todo, rules_of_rating)
  if args.estimate:
    return 0
  answers = [answer for judge, todo in work for answer in _ask(args, judge, todo)]
  result = results.summarise(
    answers, people, judges, systems, rules_of_rating, args.seed
  )
  result |= {"data": {"conversations": len(ids), "missing": notes}}
  results.write(out, result, answers)
  summary.show(result, answers, out)
  return int(len(results.unjudged(answers)) > args.max_unjudged)


def open_systems(args):
  """(systems, ids that are judged, what is missing in words) of the options."""
  systems = [conversations.read(args.predictions)]
  for name in args.against:
    is_gold = name == conversations.GOLD
    system = conversations.gold_of(systems[0]) if is_gold else conversations.read(name)
    if system.name in (s.name for s in systems):
      raise UserError(f"--against={name}: is given already")
    systems.append(system)
  ids, notes = conversations.in_common(systems, args.allow_missing)
  if (args.images_dir or args.data) and _lacks_true_masks(systems):
    notes.append(f"{args.predictions}: holds no `true` masks: gold is shown without")
  for note in notes:
    print(f"warning: {note}", file=sys.stderr)
  return systems, ids[: args.limit], notes


def _lacks_true_masks(systems):
  """Whether gold answers would stand beside a picture without their masks."""
  gold = [s for s in systems if s.name == conversations.GOLD]
  shown = [c for s in gold for c in s.conversations.values()]
  return any(c.masks and not any(c.masks) for c in shown)


def make_folder(path) -> pathlib.Path:
  """The folder for results, made now: a run must not fail at its end."""
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={path}: cannot be made: {error.strerror}") from None
  return pathlib.Path(path)


def add_input_options(parser):
  """Options that a rating page has, too."""
  add, path = parser.add_argument, parser.add_path
  parser.add_input(
    "--predictions",
    required=True,
    help="predictions.jsonl of `miras eval`, or its folder",
  )
  add(
    "--against", type=local_path, action="append", default=[],
    help="another predictions.jsonl, or gold: the data's own answers (may be repeated)",
  )  # fmt: skip
  parser.add_output("--out", required=True, help="folder for the results")
  parser.add_input(
    "--images-dir", help="folder in which the predictions' `image` are files"
  )
  parser.add_place("--data", help="data set that has the images, as in `miras eval`")
  add("--split", default="val", help="of --data (val)")
  path("--rubric", help="another rubric (a copy of miras_jax/judge/rubric.json)")
  add("--limit", type=int, help="only the first N conversations")
  add("--only", choices=("scores", "pairs"), help="leave the others out")
  add("--allow-missing", action="store_true", help="judge what all systems answered")
  add("--seed", type=int, default=0, help="of samples and intervals (0)")


def check_numbers(args, lowest):
  """UserError for an option below its lowest value."""
  for name, low in lowest.items():
    value = getattr(args, name)
    if value is not None and not value >= low:
      raise UserError(f"--{name.replace('_', '-')}={value} must be at least {low}")


def _parse(argv):
  parser = Parser(prog="miras judge", description=__doc__)
  add_input_options(parser)
  add, path = parser.add_argument, parser.add_path
  add("--model", action="append", required=True, help="a judge, or rules; repeatable")
  add(
    "--endpoint", action="append", default=[],
    help="base URL of an OpenAI-compatible server; one, or one for each --model",
  )  # fmt: skip
  add("--key-env", default="OPENAI_API_KEY", help="variable that holds the API key")
  path("--human", action="append", default=[], help="CSV of people's ratings")
  path("--key", help="key of the rating page (page_key.json beside the CSV)")
  add("--probes", type=int, default=20, help="conversations to spoil as a probe (20)")
  path("--store", help=f"SQLite file of replies (OUT/{STORE})")
  add("--offline", action="store_true", help="take replies from the store alone")
  add("--estimate", action="store_true", help="say what it would cost, and end")
  add("--price", help="IN,OUT in USD per million tokens")
  add("--max-cost", type=float, help="USD that a judge may cost at most")
  add("--max-unjudged", type=int, default=0, help="exit 1 past so many refusals (0)")
  add("--concurrency", type=int, default=8, help="requests at a time (8)")
  add("--rpm", type=float, help="requests a minute at most")
  add("--timeout", type=float, default=120, help="seconds of a request (120)")
  add("--attempts", type=int, default=6, help="of a request (6)")
  add("--backoff", type=float, default=1, help="seconds before the second (1), doubled")
  add("--repairs", type=int, default=2, help="asked again after a broken reply (2)")
  add("--json", choices=("schema", "object", "none"), default="schema",
      help="how the endpoint is told to write JSON (schema)")  # fmt: skip
  add("--extra", default="{}", help="JSON of more fields of a request; null removes")
  args = parser.parse_args(argv)
  check_numbers(
    args,
    {"limit": 1, "probes": 0, "max_cost": 0, "max_unjudged": 0, "concurrency": 1}
    | {"rpm": 0.01, "timeout": 0.01, "attempts": 1, "backoff": 0, "repairs": 0}
    | {"seed": 0},
  )
  llm_options.check_most(args)
  args.extra = llm_options.extra_fields(args.extra)
  _match_endpoints(args)
  return args


def _match_endpoints(args):
  """args.endpoint: one for each of args.model, "" where none is needed."""
  models = args.model
  if "" in models:
    raise UserError("--model= is empty: name a model")
  if len(set(models)) < len(models):
    raise UserError(f"--model: {', '.join(models)}: one is given twice")
  asked = [name for name in models if name != offline_rules.NAME]
  given = args.endpoint * len(asked) if len(args.endpoint) == 1 else args.endpoint
  if args.offline and not given:
    given = [""] * len(asked)
  if asked and not given:
    raise UserError("--endpoint=URL is missing, e.g. http://localhost:8000/v1")
  if len(given) != len(asked) and args.endpoint:
    raise UserError(
      f"{len(args.endpoint)} --endpoint for {len(asked)} --model: want one, or one each"
    )
  places = iter(given)
  args.endpoint = ["" if m == offline_rules.NAME else next(places) for m in models]


def _read_people(args, systems, rules_of_rating):
  found, seen = [], {}
  for path in args.human:
    for rating in human.read(path, args.key, systems, rules_of_rating):
      place = rating._replace(value=0)
      if place in seen:
        raise UserError(
          f"{path}: {rating.rater} rates {rating.id!r} for {rating.question}, as in"
          f" {seen[place]}"
        )
      seen[place] = path
      found.append(rating)
  return found


def _make_judges(args, out, rules_of_rating, with_pictures):
  judges, store = [], None
  for name, endpoint in zip(args.model, args.endpoint, strict=True):
    if name == offline_rules.NAME:
      offline_rules.check(rules_of_rating)
      judges.append(offline_rules.RulesJudge())
      continue
    store = store or Store(args.store or out / STORE)
    client = Client(
      endpoint, store, key_env=args.key_env, timeout=args.timeout,
      attempts=args.attempts, backoff=args.backoff, pace=Pace(args.rpm),
      offline=args.offline,
    )  # fmt: skip
    judges.append(
      LanguageModelJudge(
        name,
        client,
        rules_of_rating,
        with_pictures,
        repairs=args.repairs,
        json_mode=args.json,
        extra=args.extra,
      )  # fmt: skip
    )
  return judges


def _tasks(args, judge, systems, ids):
  found, place = [], {name: i for i, name in enumerate(ids)}
  if args.only != "pairs":
    found += questions.scores(systems, ids)
    found += questions.probes(
      systems[0], ids, args.probes, args.seed, judge.sees_pictures
    )
  if args.only != "scores":
    found += questions.pairs(systems, ids)
  if not found:
    raise UserError("--only=pairs: there is nothing to compare with; give --against")
  # All of a conversation together: its picture is drawn once.
  return sorted(found, key=lambda task: place[task.id])


def _estimate(args, judge, todo, rules_of_rating):
  """Says what a judge will cost; UserError where that is too much."""
  if judge.name == offline_rules.NAME:
    return
  price = cost.find_price(judge.name, args.price)
  estimate = cost.Estimate()
  for task in tqdm.tqdm(todo, desc="estimate", unit="request", disable=None):
    request = judge.request(task)
    estimate = estimate.add(
      request, judge.client.has(request), rules_of_rating.usual_tokens
    )
  print(f"{judge.name}: {estimate.text(price)}", file=sys.stderr)
  if args.max_cost is None or not estimate.requests:
    return
  if price is None:
    raise UserError(
      f"--max-cost: no price of {judge.name} is known; give --price=IN,OUT"
    )
  if (most := estimate.dollars(price)[1]) > args.max_cost:
    raise UserError(f"{judge.name}: may cost ${most:.2f}, --max-cost={args.max_cost:g}")


def _ask(args, judge, todo):
  """Answers of one judge, in the order of the tasks."""
  if judge.name == offline_rules.NAME:
    return [Answer(judge.name, task, judge.answer(task)) for task in todo]
  with tqdm.tqdm(total=len(todo), desc=judge.name, unit="request", disable=None) as bar:
    stop = judge.client.pace.stop
    outcomes = pool.work(judge.answer, todo, args.concurrency, stop, bar.update)
  return [Answer(judge.name, t, o) for t, o in zip(todo, outcomes, strict=True)]
