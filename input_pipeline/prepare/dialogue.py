"""Conversations about a rendered scene whose intent narrows turn by turn.

A conversation is a chain of facts ("red", "striped", "the leftmost of those"). Each
fact narrows what the facts before it left over, and no fact alone names the target:
only the conversation does. Answers are computed from the scene, so they are true of
the image.
"""

import dataclasses
from collections.abc import Callable

from input_pipeline.prepare import wording
from input_pipeline.prepare.scene import COLOURS, PARTS, SHAPES, TEXTURES

MAX_FACTS = 3
ORDER_SHARE = 0.4  # of the chains that keep their last fact for a place, if need be
LONG_SHARE = 0.1  # of the conversations of four rounds that open with a fifth


@dataclasses.dataclass(frozen=True)
class Fact:
  """One thing a user may ask for. `pick` keeps the objects it is true of."""

  kind: str
  word: str
  pick: Callable[[tuple], tuple]


@dataclasses.dataclass(frozen=True)
class Target:
  """What one [SEG] is about: a label and the polygons it covers; None means nothing."""

  label: str | None
  polygons: tuple = ()


@dataclasses.dataclass(frozen=True)
class Conversation:
  """`rounds` are (user, assistant) pairs; `targets` follow the order of [SEG]."""

  rounds: tuple[tuple[str, str], ...]
  targets: tuple[Target, ...]


def sample_conversation(scene, rng, kind, *, early_mask):
  """Draws one conversation of `kind` ("one", "part", "two", "none") or returns None.

  `early_mask` lets the user ask for a mask of what is left after the first fact too.
  None means that this scene has no target of that kind: the caller tries another.
  """
  maker = {"one": _one, "part": _part, "two": _two, "none": _none}[kind]
  for _ in range(8):
    plan = maker(scene.objects, rng)
    if plan:
      return _Writer(scene, rng).write(plan, early_mask=early_mask)
  return None


@dataclasses.dataclass(frozen=True)
class _Plan:
  """Facts that lead to `last`, the request whose answer holds the final [SEG]s."""

  kind: str
  facts: tuple[Fact, ...]
  targets: tuple[Target, ...]
  request: tuple[str, ...] = ()


def attribute_facts(item):
  """Every fact about an object that does not depend on what was said before."""
  facts = [has("colour", item.colour), has("shape", item.shape), has("size", item.size)]
  if item.texture != "plain":
    facts.append(has("texture", item.texture))
  return facts


def has(kind, word):
  return Fact(
    kind, word, lambda items: tuple(o for o in items if getattr(o, kind) == word)
  )


_ORDERS = {
  "leftmost": lambda o: o.centre[0],
  "rightmost": lambda o: -o.centre[0],
  "highest": lambda o: o.centre[1],
  "lowest": lambda o: -o.centre[1],
}
_MARGIN = 8.0  # pixels by which an extreme must win, to be beyond dispute


def order_facts(items):
  """Extremes of position among `items` that win by a clear margin."""
  facts = []
  for word, key in _ORDERS.items():
    ranked = sorted(items, key=key)
    if len(ranked) > 1 and key(ranked[1]) - key(ranked[0]) >= _MARGIN:
      facts.append(
        Fact("order", word, lambda group, key=key: tuple(sorted(group, key=key)[:1]))
      )
  return facts


def chain(objects, item, rng):
  """Facts that narrow `objects` to `item` alone, or None.

  A fact that by itself would name the target is never used: then one turn would give
  the answer away.
  """
  left, facts = objects, []
  pool = attribute_facts(item)
  most = MAX_FACTS - (rng.random() < ORDER_SHARE)
  for index in rng.permutation(len(pool)):
    fact = pool[index]
    narrowed = fact.pick(left)
    if len(narrowed) < len(left) and len(fact.pick(objects)) > 1:
      left, facts = narrowed, [*facts, fact]
    if len(left) == 1 or len(facts) == most:
      break
  if len(left) > 1:
    if len(facts) == MAX_FACTS:
      return None
    choices = [
      f
      for f in order_facts(left)
      if f.pick(left) == (item,) and f.pick(objects) != (item,)
    ]
    if not choices:
      return None
    facts.append(choices[rng.integers(len(choices))])
  return tuple(facts) if len(facts) > 1 else None


def _one(objects, rng):
  item = objects[rng.integers(len(objects))]
  facts = chain(objects, item, rng)
  if not facts:
    return None
  return _Plan("one", facts, (_target(facts, item),))


def _part(objects, rng):
  owners = [o for o in objects if o.shape in PARTS]
  if len(owners) < 2:
    return None
  item = owners[rng.integers(len(owners))]
  if sum(o.shape == item.shape for o in owners) < 2:
    return None
  facts = chain(objects, item, rng)
  if not facts:
    return None
  part = str(rng.choice(PARTS[item.shape]))
  label = f"{part} of the {wording.phrase(facts)}"
  return _Plan("part", facts, (Target(label, tuple(item.parts[part])),), (part,))


def _two(objects, rng):
  """Two objects of one group, told apart by their shapes: "the tree and the car"."""
  item = objects[rng.integers(len(objects))]
  facts = [f for f in attribute_facts(item) if f.kind != "shape"]
  fact = facts[rng.integers(len(facts))]
  group = fact.pick(objects)
  single = [
    o
    for o in group
    if sum(p.shape == o.shape for p in group) == 1
    and sum(p.shape == o.shape for p in objects) > 1
  ]
  if len(single) < 2 or len(group) == len(objects):
    return None
  first, second = (single[i] for i in rng.permutation(len(single))[:2])
  targets = tuple(_target((fact, has("shape", o.shape)), o) for o in (first, second))
  return _Plan("two", (fact,), targets, (first.shape, second.shape))


def _none(objects, rng):
  """A last fact that is true of some object, but of none that is left."""
  item = objects[rng.integers(len(objects))]
  first = attribute_facts(item)[rng.integers(2)]
  left = first.pick(objects)
  words = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES[1:]}
  absent = [
    has(kind, word)
    for kind, choices in words.items()
    for word in choices
    if kind != first.kind
    and has(kind, word).pick(objects)
    and not has(kind, word).pick(left)
  ]
  if not absent or len(left) == len(objects):
    return None
  return _Plan("none", (first, absent[rng.integers(len(absent))]), (Target(None),))


def _target(facts, item):
  """An object under the name that the facts give it: "leftmost red thing"."""
  return Target(wording.phrase(facts), tuple(item.polygons))


class _Writer:
  """Turns a plan into rounds of talk; draws every wording from `rng`."""

  def __init__(self, scene, rng):
    self.scene, self.rng = scene, rng

  def say(self, table, **fields):
    return str(table[self.rng.integers(len(table))]).format(**fields)

  def write(self, plan, *, early_mask):
    rounds, targets = [], []
    last_in_request = plan.kind == "one" and self.rng.random() < 0.2
    count = len(plan.facts) - last_in_request + early_mask + 1
    if count < 3 or (count == 4 and self.rng.random() < LONG_SHARE):
      rounds.append(self._opening())
    left = self.scene.objects
    spoken = plan.facts[:-1] if last_in_request else plan.facts
    for index, fact in enumerate(spoken):
      left = fact.pick(left)
      rounds.append(self._ask(fact, left, first=index == 0))
      if early_mask and index == 0 and len(left) > 1:
        rounds.append(self._show(fact, left))
        targets.append(_group(fact, left))
    rounds.append(self._request(plan, last_in_request))
    return Conversation(tuple(rounds), (*targets, *plan.targets))

  def _opening(self):
    return (
      self.say(wording.OPENING),
      self.say(wording.OPENING_ANSWER, n=wording.NUMBERS[len(self.scene.objects)]),
    )

  def _ask(self, fact, left, *, first):
    """One narrowing question and its true answer."""
    noun = wording.noun(fact, plural=True)
    table = wording.FIRST_ASK if first else wording.NEXT_ASK
    if fact.kind == "order":
      table = wording.ORDER_ASK
    return self.say(table, noun=noun, word=fact.word), self._answer(fact, left)

  def _show(self, fact, left):
    """A round that wants a mask of all that is left so far."""
    noun = wording.noun(fact, plural=True)
    return (
      self.say(wording.SHOW_GROUP),
      self.say(wording.GROUP_ANSWER, n=wording.NUMBERS[len(left)], noun=noun),
    )

  def _answer(self, fact, left):
    phrase = wording.noun(fact, plural=len(left) != 1)
    if not left:
      return self.say(wording.NO_ANSWER, noun=phrase)
    if fact.kind == "order":
      return self.say(wording.ORDER_ANSWER, word=fact.word)
    table = wording.ONE_ANSWER if len(left) == 1 else wording.MANY_ANSWER
    return self.say(table, n=wording.NUMBERS[len(left)], noun=phrase)

  def _request(self, plan, last_in_request):
    """The round that ends in [SEG]; PRIST's own last requests name no target."""
    if plan.kind == "part":
      return (
        self.say(wording.PART_REQUEST, part=plan.request[0]),
        self.say(wording.PART_MASK, part=plan.request[0]),
      )
    if plan.kind == "two":
      a, b = plan.request
      return self.say(wording.TWO_REQUEST, a=a, b=b), self.say(
        wording.TWO_MASK, a=a, b=b
      )
    if plan.kind == "none":
      return self.say(wording.REQUEST), self.say(wording.NONE_MASK)
    if last_in_request:
      fact = plan.facts[-1]
      question = self.say(wording.NARROW_REQUEST, noun=wording.noun(fact, plural=False))
      return question, self.say(wording.MASK)
    return self.say(wording.REQUEST), self.say(wording.MASK)


def _group(fact, left):
  """Everything a fact leaves, as one target."""
  label = wording.noun(fact, plural=True)
  return Target(label, tuple(p for item in left for p in item.polygons))
