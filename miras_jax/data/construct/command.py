"""Makes conversations about photographs: elements, a reasoning tree, a dialogue a path.

  export OPENAI_API_KEY=...
  miras data construct --images=photos/images --masks=photos/masks --out=made \\
      --endpoint=https://api.openai.com/v1 --model=gpt-4o
  miras data construct --images=photos --out=made --model=Qwen/Qwen3-VL-8B-Instruct \\
      --endpoint=http://localhost:8000/v1 --estimate
  miras data construct --images=photos/images --masks=photos/masks --out=made \\
      --model=rules
  miras data construct --scenes=400 --short=6 --out=made_x

OUT is in PRIST's layout: `miras data check OUT`, `miras data build prist --src=OUT`.
Its trees are PRIST-X: `miras data build prist_x --src=OUT`. With --masks (labels of any
tool that `miras data build own` reads, beside the photographs) each focus is one
annotation; without, OUT/worklist.html and labelme files say what is to be drawn.

Every reply is kept in OUT/replies.sqlite under its request: a run that was cut goes on,
and the same command with --offline makes the same files without asking anyone. What a
model writes is checked (docs/construct.md); what does not pass is in OUT/rejected.jsonl
with its reason. --model=rules writes true, dull dialogues from the masks and asks
nobody. --scenes=N draws scenes whose trees are exact instead of reading photographs;
with --short=K, K talks of one round about each of those to train on.
"""

import pathlib
import sys

from input_pipeline import safe_files
from input_pipeline.builders import split_by_photograph
from input_pipeline.narrate.wordings import Wordings
from miras_jax.checkpoint import lock
from miras_jax.data.construct import endpoint, output, photographs, prompts, rules, show
from miras_jax.data.construct.options import parse
from miras_jax.data.construct.run import run
from miras_jax.data.construct.stages import Options, Stages
from miras_jax.errors import UserError
from miras_jax.llm import asking, cost
from miras_jax.llm.client import Client
from miras_jax.llm.pace import Pace
from miras_jax.llm.store import Store

STORE = "replies.sqlite"


def main(argv) -> int:
  """`miras data construct ...`; see the module's head."""
  args = parse(argv, __doc__)
  out = pathlib.Path(args.out)
  if args.images:
    photographs.check_apart(args.images, args.masks, out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made: {error.strerror}") from None
  with lock.hold(out, "miras data construct"):
    return _scenes(args, out) if args.scenes else _construct(args, out)


def _scenes(args, out):
  from input_pipeline.prepare import trees  # draws with libraries nobody else needs

  recipe = {"scenes": args.scenes, "seed": args.seed, "short": args.short}
  output.check_folder(out, recipe)
  counts = trees.generate(out, args.scenes, args.seed, args.short)
  for split, count in counts.items():
    print(f"{split}: {count:,} conversations")
  return 0


def _construct(args, out):
  stages = _stages(args)
  shares = split_by_photograph.parse(args.splits)
  found = photographs.open_photographs(
    args.images, args.masks, form=args.form, names=args.names, wordings=stages.wordings
  )
  if args.model == rules.NAME and not found.masked:
    raise UserError("--model=rules writes from masks: give --masks")
  settings = _settings(args, stages)
  output.check_folder(out, settings)
  client = _client(args, out)
  if args.model != rules.NAME:
    _estimate(args, found, stages, client)
    if args.estimate:
      return 0
    endpoint.check_vision(client, stages)

  def ask(request, model):
    return asking.ask(client, request, model, args.repairs)

  made = run(found, stages, ask, args.concurrency, client.pace.stop)
  show.problems(made)
  if not made.drafts():
    raise UserError(
      f"{out}: no conversation passed: {show.reasons(made) or 'no reply'}"
    )

  def find(name):
    try:
      path = safe_files.resolve_inside(args.images, name)
      return safe_files.read_bytes(path, safe_files.MAX_IMAGE_BYTES)
    except (OSError, ValueError) as error:
      raise UserError(f"{args.images}/{name}: was there, and is not: {error}") from None

  meta = output.write_all(out, made, shares, settings, found.masked, find)
  show.summary(meta, out)
  return 0


def _stages(args):
  wordings = Wordings.load(pathlib.Path(args.wordings)) if args.wordings else None
  options = Options(
    model=args.model,
    per_image=args.per_image,
    json_mode=args.json,
    extra=args.extra,
    temperature=args.temperature,
    repairs=args.repairs,
  )
  return Stages(prompts.read(args.prompts), options, wordings or Wordings.load())


def _settings(args, stages):
  """What a run that goes on must not change."""
  texts = stages.prompts
  return {
    "model": args.model,
    "prompts": {"name": texts.texts["name"], "version": texts.version}
    | {"digest": texts.digest},
    "per_image": args.per_image,
    "temperature": args.temperature,
    "json": args.json,
    "extra": args.extra,
    "repairs": args.repairs,
    "splits": args.splits,
    "masks": bool(args.masks),
    "source": args.source,
    "licence": args.licence,
  }


def _client(args, out):
  path = args.store or out / STORE
  if args.model == rules.NAME:
    return rules.RulesClient(Store(path, durable=False))
  return Client(
    args.endpoint or "", Store(path), key_env=args.key_env, timeout=args.timeout,
    attempts=args.attempts, backoff=args.backoff, pace=Pace(args.rpm),
    offline=args.offline,
  )  # fmt: skip


def _estimate(args, found, stages, client):
  """Says what the run will cost; UserError where that is too much."""
  if args.offline:
    return
  price = cost.find_price(args.model, args.price)
  estimate, looked_at = endpoint.estimate(found, stages, client)
  where = f"{looked_at} of {len(found.names):,} photographs"
  print(f"{args.model}: {estimate.text(price)} (from {where})", file=sys.stderr)
  if args.max_cost is None or not estimate.requests:
    return
  if price is None:
    raise UserError(
      f"--max-cost: no price of {args.model} is known; give --price=IN,OUT"
    )
  if (most := estimate.dollars(price)[1]) > args.max_cost:
    raise UserError(f"{args.model}: may cost ${most:.2f}, --max-cost={args.max_cost:g}")
