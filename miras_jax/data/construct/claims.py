"""What a tree and its turns claim, against what the masks measure."""

import re
from collections.abc import Iterator

from input_pipeline.narrate.wordings import COLOURS, Wordings
from miras_jax.data.construct import measures, tree
from miras_jax.data.construct.drafts import Draft
from miras_jax.data.construct.measures import Measures

_NUMBERS = (
  "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
  "eleven", "twelve",
)  # fmt: skip
_NUMBER = rf"\b({'|'.join(_NUMBERS)}|\d{{1,3}})"
# A number of what is left: "three things", "two of them", "only one remains".
_LEFT = re.compile(
  rf"{_NUMBER} (?:\w+ )?(?:things?|items?|objects?)\b"
  rf"|{_NUMBER} of (?:them|these|those)\b"
  rf"|{_NUMBER} (?:remain|remains|is left|are left|stay|stays)\b",
  re.I,
)
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_PLACE_WORDS = {"upper": "top", "lower": "bottom"}
_IS = r"(?:is|are|lies|lie|sits|stands|hangs)"
_SIDE = re.compile(
  rf"\b{_IS} (?:\w+ )?(?:on|in|at|to) the (?:far |very )?"
  r"(left|right|top|bottom|upper|lower)\b(?! of (?!the (?:picture|image|photo)))",
  re.I,
)
_SIZE = re.compile(
  rf"\b(?:{_IS}|covers?|takes? up) (?:\w+ )?"
  r"(larger|bigger|smaller|more of the picture|less of the picture) than the ",
  re.I,
)
_SMALLER = ("smaller", "less of the picture")
_ORDER_WORDS = {
  "leftmost": "leftmost", "farthest to the left": "leftmost",
  "rightmost": "rightmost", "farthest to the right": "rightmost",
  "highest": "highest", "topmost": "highest",
  "lowest": "lowest", "bottommost": "lowest",
  "largest": "largest", "biggest": "largest", "smallest": "smallest",
}  # fmt: skip


def of_path(made: tree.Tree, path: tree.Path, known: Measures) -> Iterator:
  """(reason, detail) for each node of a path whose test the masks refute, or whose test
  alone gives the focus away."""
  focus = made.elements[path.focus].annotation
  for node in made.steps(path):
    if node.test == measures.NONE:
      continue
    of = made.elements[node.of].annotation if node.of in made.elements else node.of
    left = set(made.annotations(node.elements))
    before = set(made.annotations(made.before(node)))
    if node.test in measures.EXTREMES:
      best = known.winner(node.test, before)
      wrong = best is not None and known.tops(left) != {best}
      given_away = known.winner(node.test, known.things) == focus
    elif node.test == measures.PART:
      # "Which parts has it?" names nothing, as long as other things have some, too.
      wrong = of not in known.things or left != known.inside(of)
      given_away = {i for i in known.things if known.above(i)} <= {focus}
    else:
      said = known.verdicts(node.test, of, before)
      wrong = any(said.get(i) is False for i in left)
      wrong |= any(said.get(i) for i in known.tops(before) - left)
      fits = known.verdicts(node.test, of, known.things).items()
      given_away = {i for i, v in fits if v is not False} - known.inside(focus) <= {
        focus
      }
    if wrong:
      yield measures.CHECK_OF[node.test], f"node {node.id!r}: {node.test} {of}".strip()
    elif given_away:
      yield "single_turn", f"node {node.id!r} alone leaves the focus"


def of_turns(draft: Draft) -> Iterator[tuple[str, str]]:
  """Numbers, sides and orders of size in the texts that the masks refute."""
  yield from _counts(draft)
  for number, (_, text) in enumerate(draft.turns):
    for sentence in re.split(r"[.!?;]+", text):
      yield from _sides(draft, number, sentence)
      yield from _sizes(draft, number, sentence)


def _counts(draft):
  """A number in the answer of a node: of the things that it leaves."""
  answers = [text for role, text in draft.turns if role == "assistant"][:-1]
  for node, text in zip(draft.tree.steps(draft.path), answers, strict=False):
    found = _LEFT.search(text)
    if not found:
      continue
    word = next(filter(None, found.groups())).lower()
    said = int(word) if word.isdecimal() else _NUMBERS.index(word)
    count = count_of(draft.tree, node, draft.measures)
    if said not in (len(node.elements), count):
      yield "count", f"{found[0]!r} where node {node.id!r} leaves {count}"


def count_of(made: tree.Tree, node: tree.Node, known: Measures | None) -> int:
  """How many things a node leaves; a part that is left with its whole is none."""
  annotations = made.annotations(node.elements)
  parts = len(annotations) - len(known.tops(annotations)) if known else 0
  return len(node.elements) - parts


def _named(draft, text) -> list[str]:
  """Ids of things whose name stands in a text; of names in names the longer ones."""
  found = {}
  for i, thing in draft.measures.things.items():
    name = re.escape(thing.name.casefold().replace("_", " "))
    for match in re.finditer(rf"(?<![\w-]){name}(?![\w-])", text.casefold()):
      found.setdefault(i, match.span())
  return [
    i
    for i, (start, end) in found.items()
    if not any(
      a <= start and end <= b and (a, b) != (start, end) for a, b in found.values()
    )
  ]


def _sides(draft, number, sentence):
  match = _SIDE.search(sentence)
  named = _named(draft, sentence[: match.start()]) if match else []
  if not named or len({draft.measures.things[i].name for i in named}) > 1:
    return
  word = match[1].lower()
  side = _PLACE_WORDS.get(word, word)
  if all(draft.measures.verdict(_OPPOSITE[side], "", i) for i in named):
    yield "side", f"turn {number}: {match[0]!r}"


def _sizes(draft, number, sentence):
  match = _SIZE.search(sentence)
  if not match:
    return
  first, second = (
    _named(draft, part) for part in (sentence[: match.start()], sentence[match.end() :])
  )
  if len(first) != 1 or len(second) != 1:
    return
  areas = [draft.measures.things[i].area for i in (*first, *second)]
  if match[1].lower() in _SMALLER:
    areas.reverse()
  if areas[0] < areas[1]:
    yield "size", f"turn {number}: {match[0].strip()!r}"


def single_turn(draft: Draft, wordings: Wordings) -> Iterator[tuple[str, str]]:
  """Turns that leave only the focus to somebody who reads no other one: an extreme or a
  colour of the whole picture, or the names of everything else."""
  known, focus = draft.measures, draft.annotation
  others = set(known.targets()) - {focus}
  for number, (_, text) in enumerate(draft.early()):
    low = text.casefold()
    if len(others) > 1 and others <= set(_named(draft, text)):
      yield "single_turn", f"turn {number} names everything else"
      return
    for word, kind in _ORDER_WORDS.items():
      if word in low and known.winner(kind, known.things) == focus:
        yield "single_turn", f"turn {number}: the {word} of all is the focus"
        return
    for colour in COLOURS:
      said = re.search(rf"\b{wordings.tables['colours'][colour]}\b", low)
      verdicts = {i: known.verdict("colour", colour, i) for i in known.things}
      if said and [i for i, v in verdicts.items() if v is not False] == [focus]:
        yield "single_turn", f"turn {number}: only the focus is {colour}"
        return
