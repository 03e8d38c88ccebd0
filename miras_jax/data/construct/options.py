"""The options of `miras data construct`."""

from miras_jax.data.construct import rules
from miras_jax.errors import UserError
from miras_jax.llm import options as llm_options
from miras_jax.options import Parser

SPLITS = "train:0.8,val:0.1,test:0.1"
_LOWEST = {
  "scenes": 1, "seed": 0, "short": 0, "per_image": 1, "concurrency": 1, "rpm": 0.01,
  "timeout": 0.01, "attempts": 1, "backoff": 0, "repairs": 0, "max_cost": 0,
  "temperature": 0,
}  # fmt: skip


def parse(argv, description):
  """The parsed options. Raises UserError for those that do not go together."""
  parser = Parser(prog="miras data construct", description=description)
  add, path = parser.add_argument, parser.add_path
  path("--images", help="folder of the photographs")
  path("--masks", help="folder of their labels, beside it or inside it")
  path("--out", required=True, help="folder to make")
  add("--endpoint", help="base URL of an OpenAI-compatible server")
  add("--model", help="a model with vision, or rules")
  add("--key-env", default="OPENAI_API_KEY", help="variable that holds the API key")
  add("--per-image", type=int, default=4, help="most conversations of an image (4)")
  add("--splits", default=SPLITS, help=f"shares of the photographs ({SPLITS})")
  add("--form", default="", help="of the labels, as `miras data build own` names them")
  path("--names", help="file with the names of the classes")
  path("--prompts", help="other prompts (a copy of the package's prompts.json)")
  path("--wordings", help="words for colours, as `miras data build own` takes them")
  add("--source", default="not stated", help="of the photographs, for the datasheet")
  add("--licence", default="not stated", help="of the photographs, for the datasheet")
  path("--store", help="SQLite file of replies (OUT/replies.sqlite)")
  add("--offline", action="store_true", help="take replies from the store alone")
  add("--estimate", action="store_true", help="say what it would cost, and end")
  add("--price", help="IN,OUT in USD per million tokens")
  add("--max-cost", type=float, help="USD that it may cost at most")
  add("--concurrency", type=int, default=8, help="photographs at a time (8)")
  add("--rpm", type=float, help="requests a minute at most")
  add("--timeout", type=float, default=120, help="seconds of a request (120)")
  add("--attempts", type=int, default=6, help="of a request (6)")
  add("--backoff", type=float, default=1, help="seconds before the second (1), doubled")
  add("--repairs", type=int, default=2, help="asked again after a broken reply (2)")
  add("--temperature", type=float, default=0.0, help="of the model (0)")
  add("--json", choices=("schema", "object", "none"), default="schema",
      help="how the endpoint is told to write JSON (schema)")  # fmt: skip
  add("--extra", default="{}", help="JSON of more fields of a request; null removes")
  add("--scenes", type=int, help="draw so many scenes instead of reading photographs")
  add("--short", type=int, default=0, help="short talks about each of them (0)")
  add("--seed", type=int, default=0, help="of the scenes (0)")
  args = parser.parse_args(argv)
  args.extra = llm_options.extra_fields(args.extra)
  _check(args)
  return args


def _check(args):
  for name, low in _LOWEST.items():
    value = getattr(args, name)
    if value is not None and not value >= low:
      raise UserError(f"--{name.replace('_', '-')}={value}: want at least {low}")
  llm_options.check_most(args)
  if args.scenes:
    if args.images or args.masks or args.model:
      raise UserError("--scenes draws its pictures: leave out --images and --model")
    return
  if args.short:
    raise UserError(f"--short={args.short} goes with --scenes")
  if not args.images:
    raise UserError("--images=DIR is missing: the folder of the photographs")
  if not args.model:
    raise UserError("--model=NAME is missing: a model with vision, or rules")
  if args.model != rules.NAME and not (args.endpoint or args.offline):
    raise UserError("--endpoint=URL is missing, e.g. http://localhost:8000/v1")
