"""A conversation turn by turn: time to the first token and to text and masks.

  ours       what chat, eval and the server run: the image is encoded once, a turn
             reads its new tokens and decodes the masks of its [SEG]
  published  the same model and programs as the published chat uses them: every turn
             encodes the image and reads the whole conversation again
  torch      transformers' `generate` on a Llama of equal shape, whole conversation each
             turn, with its KV cache; no image is encoded, no mask decoded

  miras bench chat
  miras bench chat --rows=8 --rounds=5
  miras bench chat --size=7b --sides=ours,published      # an accelerator

Weights are random; no answer ends early; a token that an answer has once, if there is
one, stands for [SEG], so that the answer has one mask. Sides take turns, medians are
compared, and ours and published have to say the same tokens. Lengths are those of the
508 public test dialogues of PRIST in Llama's tokens: 13.5 a question, here 24 with the
template around it; answers, their `</s>` included, of 16.7, 20.0, 20.2 and 8.9 in turns
1 to 4, of which the fourth is nearly always the last. Needs `pip install torch==2.13.0
transformers` for its side.
"""

import functools
import os
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import batch_table
from miras_jax.benchmarks import decode, prist
from miras_jax.benchmarks.packing import PREFIX
from miras_jax.benchmarks.step import import_torch_side
from miras_jax.benchmarks.turns import CLOCKS, split_sides
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.inference.conversation import Prompt
from miras_jax.inference.generator import Generator
from miras_jax.models.miras import Miras, batch_sizes
from miras_jax.options import Parser

SIDES = ("ours", "published", "torch")
PRIST = (17, 20, 20, 9)  # tokens of the answers of turns 1 to 4


def main(argv):
  """Runs the benchmark; returns 0. UserError where PyTorch is needed and missing."""
  args = parse(argv)
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  torch_side = import_torch_side("chat") if "torch" in args.sides else None
  config = prist.model_config(args.size, args.fields)
  talk = Talk(config, args)
  makers = {
    "ours": lambda: Ours(talk),
    "published": lambda: Published(talk),
    "torch": lambda: Torch(talk, torch_side, config),
  }
  times = measure({name: makers[name]() for name in args.sides}, args)
  print(
    f"{args.rows} rows, {talk.first} tokens before the first answer, {args.question} a"
    f" question, {args.new} an answer; milliseconds to the first token / to the end"
  )
  print("turn " + "".join(f"{name:>22}" for name in times))
  for turn in range(args.turns):
    cells = (f"{1e3 * a:10.0f} /{1e3 * b:9.0f}" for a, b in at(times, turn).values())
    print(f"{turn + 1:4} " + "".join(f"{cell:>22}" for cell in cells))
  if "ours" in times:
    _print_ratios(times, args.turns)
  return 0


def parse(argv):
  """The options; `fields` holds those of the config. Raises UserError."""
  argv, fields = config_file.split_fields(argv)
  parser = Parser(prog="miras bench chat", description=__doc__)
  add = parser.add_argument
  add("--size", choices=[*prist.SIZES, *prist.LARGE], default="small")
  add("--rows", type=int, default=1, help="conversations answered together")
  add("--turns", type=int, default=5, help="of a conversation")
  add("--question", type=int, default=24, help="tokens of a question")
  add("--new", type=_lengths, default=PRIST, help="tokens of the answers, by comma")
  add("--rounds", type=int, default=3, help="timed conversations of each side")
  add("--sides", default="ours,published,torch", help="which are timed")
  add("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of the process")
  args = parser.parse_args(argv)
  least = {"rows": 1, "turns": 1, "question": 1, "rounds": 1}
  for name, value in least.items():
    if getattr(args, name) < value:
      raise UserError(f"--{name}={getattr(args, name)} must be at least {value}")
  args.sides = split_sides(args.sides, SIDES)
  args.new = (*args.new, *args.new[-1:] * args.turns)[: args.turns]
  args.fields = fields
  return args


def _lengths(text):
  """ "17,20" -> (17, 20); the last one holds for all turns after it."""
  parts = text.split(",")
  if not all(part.isdigit() and int(part) > 1 for part in parts):
    raise UserError(f"--new={text}: want numbers of tokens by comma, at least 2 each")
  return tuple(map(int, parts))


class Talk:
  """The model and what is asked.

  first: tokens up to the first answer. asked(turn, said): prompts (B, T) of a turn,
  `said` the answers (B, G) to those before.
  """

  def __init__(self, config, args):
    self.cfg, self.params = decode.our_params(config)
    self.dtype, self.now = jnp.dtype(config.model.dtype), CLOCKS[args.clock]
    self.rows, self.turns, self.new = args.rows, args.turns, args.new
    self.first = PREFIX + self.cfg.num_image_tokens + args.question
    self.most = self.first + (args.turns - 1) * args.question + sum(args.new[:-1])
    self._random = np.random.default_rng(0).integers(
      0, self.cfg.llama.vocab_size // 2, (args.rows, self.first, args.turns)
    )
    self._question = args.question
    self.images = self._images()
    self.ids, self._segs = decode.no_ids(), {}

  @functools.cache  # noqa: B019  one Talk a process
  def generator(self, new):
    return Generator(
      Miras(self.cfg, self.dtype), self.params, self.ids, max_new_tokens=new
    )

  def ids_of(self, turn):
    """Token ids by which the turn's answer has a [SEG], once it is known."""
    return self.ids._replace(seg=self._segs.get(turn, decode.NEVER))

  def learn(self, turn, tokens_BG):
    """Greedy answers are always the same: the next conversation has masks."""
    said, times = np.unique(tokens_BG[0], return_counts=True)
    self._segs[turn] = int(said[np.argmin(times)])

  def encode(self):
    return self.generator(1).encode(self.images)

  def asked(self, turn, said):
    parts = [self._random[..., 0]]
    for k in range(turn):
      parts += [said[k], self._random[:, : self._question, k + 1]]
    return np.concatenate(parts, 1).astype(np.int32)

  def slots(self, tokens_BT):
    """Of one row: the image comes first."""
    slots_T = np.full(tokens_BT.shape[1], -1, np.int32)
    count = self.cfg.num_image_tokens
    slots_T[:count] = np.arange(count)
    return slots_T

  def batch(self, tokens_BT):
    """Prompt rows without padding."""
    shape = tokens_BT.shape
    sizes = batch_sizes(self.cfg, batch_size=shape[0], length=shape[1])
    rows = {n: batch_table.filled(n, sizes) for n in batch_table.prompt_names()}
    rows |= {
      "segments": np.ones(shape[1], np.int32), "image_slot": self.slots(tokens_BT)
    }  # fmt: skip
    rows = {n: np.tile(x, (shape[0], 1)) for n, x in rows.items()}
    return rows | {"tokens": tokens_BT}

  def _images(self):
    sizes = batch_sizes(self.cfg, batch_size=self.rows)
    rng = np.random.default_rng(1)
    views = {
      name: rng.integers(0, 256, batch_table.shape(name, sizes), dtype=np.uint8)
      for name in ("image_sam", "image_aux")
    }
    side = self.cfg.sam_encoder.image_size
    return views | {"valid_hw": np.full((self.rows, 2), side, np.int32)}


class Ours:
  """The session that chat uses."""

  def __init__(self, talk):
    self._talk, self._generator = talk, talk.generator(max(talk.new))

  def turn(self, turn, said):
    """(new tokens (B, G), seconds to the first of them, to all and the masks)."""
    talk, new = self._talk, self._talk.new[turn]
    self._generator.ids = talk.ids_of(turn)
    start = talk.now()
    if turn == 0:
      encoded = self._generator.encode(talk.images)
      self._session = self._generator.session(encoded, talk.most)
    tokens = talk.asked(turn, said)
    self._session.ask([Prompt(row, talk.slots(tokens)) for row in tokens])
    self._session.go_on(1)
    self._session.progress()
    first_s = talk.now() - start
    self._session.go_on(new - 1)
    out = jax.device_get(self._session.answers())
    whole_s, tokens = talk.now() - start, out["tokens"][:, :new]
    talk.learn(turn, tokens)
    return tokens, first_s, whole_s


class Published:
  """Everything anew each turn."""

  def __init__(self, talk):
    self._talk = talk

  def turn(self, turn, said):
    talk = self._talk
    prompts, seconds = talk.batch(talk.asked(turn, said)), []
    for new in (1, talk.new[turn]):
      generator = talk.generator(new)
      generator.ids, start = talk.ids_of(turn), talk.now()
      out = generator.generate(prompts, generator.encode(talk.images))
      out = jax.device_get(out)
      seconds.append(talk.now() - start)
    talk.learn(turn, out["tokens"])
    return out["tokens"], *seconds


class Torch:
  """transformers' generate; the tokens are of another model, and not compared."""

  def __init__(self, talk, torch_side, config):
    self._talk = talk
    self._answers = functools.cache(
      functools.partial(decode.torch_answer, torch_side, config, talk.rows)
    )

  def turn(self, turn, said):
    talk = self._talk
    answer = self._answers(talk.asked(turn, said).shape[1])
    seconds = []
    for new in (1, talk.new[turn]):
      start = talk.now()
      answer(new)
      seconds.append(talk.now() - start)
    return None, *seconds


def measure(sides, args):
  """{side: [(seconds to the first token, to the end) of each turn]}, medians.

  One more conversation, not counted, is first. AssertionError when ours and published
  say something else.
  """
  found = {name: [([], []) for _ in range(args.turns)] for name in sides}
  for round_ in range(args.rounds + 1):
    said = []
    for turn in range(args.turns):
      tokens = {}
      for name, side in sides.items():
        tokens[name], *seconds = side.turn(turn, said)
        for kept, value in zip(found[name][turn], seconds, strict=True):
          kept.extend([value] if round_ else [])
      own = [x for x in tokens.values() if x is not None]
      if not all(np.array_equal(own[0], x) for x in own):
        raise AssertionError(f"turn {turn + 1}: ours and published say something else")
      said.append(own[0] if own else np.zeros((args.rows, args.new[turn]), np.int32))
  return {
    name: [tuple(map(statistics.median, turn)) for turn in turns]
    for name, turns in found.items()
  }


def at(times, turn):
  """{side: (seconds to the first token, to the end)} of one turn."""
  return {name: turns[turn] for name, turns in times.items()}


def _print_ratios(times, turns):
  ours = times["ours"]
  for name in times.keys() - {"ours"}:
    first, whole = (
      [theirs[k] / mine[k] for theirs, mine in zip(times[name], ours, strict=True)]
      for k in (0, 1)
    )
    shown = (f"{a:.1f}x / {b:.1f}x" for a, b in zip(first, whole, strict=True))
    print(f"{name} / ours, turns 1 to {turns}: {', '.join(shown)}")
