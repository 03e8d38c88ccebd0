"""Short talks about a rendered scene, from which words are learnt.

Before a conversation can narrow anything down, words have to mean regions. Most of
these talks are one question that names its target, and nothing else has been said: one
object, a part, a group, or what is not there. Every name is true of the scene and of
nothing else in it. Some ask for what nobody can know: the answer is a question.
"""

from input_pipeline.prepare import wording
from input_pipeline.prepare.dialogue import (
  Conversation,
  Target,
  attribute_facts,
  has,
  order_facts,
)
from input_pipeline.prepare.scene import COLOURS, PARTS, SHAPES, TEXTURES

KINDS = {"one": 0.42, "group": 0.2, "part": 0.2, "none": 0.08, "unclear": 0.1}
_CHOICES = {
  "colour": list(COLOURS), "shape": list(SHAPES), "texture": list(TEXTURES[1:])
}  # fmt: skip


def sample_namings(scene, rng, count):
  """Up to `count` Conversations, no two that ask the same."""
  talks, seen = [], set()
  for _ in range(4 * count):
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    talk = _MAKERS[kind](scene.objects, rng)
    if talk is None or (asked := _asked(talk)) in seen:
      continue
    seen.add(asked)
    talks.append(talk)
    if len(talks) == count:
      break
  return talks


def _asked(talk):
  """What makes a talk a second one of its kind: its target, or what is said."""
  named = talk.targets and talk.targets[0].label
  return named or tuple(question for question, _ in talk.rounds)


def _say(rng, table, **fields):
  return str(table[rng.integers(len(table))]).format(**fields)


def _named(maker):
  """A talk of one round out of the (name, Target) that `maker` finds."""

  def make(objects, rng):
    found = maker(objects, rng)
    if found is None:
      return None
    name, target = found
    answer = wording.MASK if target.label else wording.NONE_MASK
    question = _say(rng, wording.NAME_REQUEST, noun=name)
    return Conversation(((question, _say(rng, answer)),), (target,))

  return make


def _unclear(objects, rng):
  """A request whose object nobody has named: the answer asks which one."""
  item = objects[rng.integers(len(objects))]
  like = [o for o in objects if o.shape == item.shape]
  kind = rng.integers(3)
  if kind == 0:
    question = _say(rng, wording.REQUEST)
  elif len(like) < 2:
    return None
  elif kind == 1 and item.shape in PARTS:
    part = str(rng.choice(PARTS[item.shape]))
    question = _say(rng, wording.PART_REQUEST, part=part)
  else:
    question = _say(rng, wording.NARROW_REQUEST, noun=item.shape)
  return Conversation(((question, _say(rng, wording.WHICH)),), ())


def _one(objects, rng):
  """An object by two or three of its facts, or by its place among its like."""
  item = objects[rng.integers(len(objects))]
  facts = _some_facts(item, rng)
  left = _all_of(facts, objects)
  places = [fact for fact in order_facts(left) if fact.pick(left) == (item,)]
  if len(left) > 1 and places:
    facts = (*facts, places[rng.integers(len(places))])
  elif len(left) > 1:
    return None
  name = wording.phrase(facts)
  return name, Target(name, tuple(item.polygons))


def _group(objects, rng):
  item = objects[rng.integers(len(objects))]
  facts = attribute_facts(item)
  fact = facts[rng.integers(len(facts))]
  left = fact.pick(objects)
  if len(left) < 2:
    return None
  name = wording.noun(fact, plural=True)
  return name, Target(name, tuple(p for item in left for p in item.polygons))


def _part(objects, rng):
  owners = [item for item in objects if item.shape in PARTS]
  if not owners:
    return None
  item = owners[rng.integers(len(owners))]
  facts = _some_facts(item, rng)
  if len(_all_of(facts, objects)) > 1:
    return None
  part = str(rng.choice(PARTS[item.shape]))
  name = f"{part} of the {wording.phrase(facts)}"
  return name, Target(name, tuple(item.parts[part]))


def _none(objects, rng):
  """Two facts that no object has both, one of them true of some object."""
  kinds = rng.permutation(list(_CHOICES))[:2]
  first, second = (has(str(kind), str(rng.choice(_CHOICES[kind]))) for kind in kinds)
  some = first.pick(objects) or second.pick(objects)
  if not some or second.pick(first.pick(objects)):
    return None
  return wording.phrase((first, second)), Target(None)


def _some_facts(item, rng):
  facts = attribute_facts(item)
  count = min(len(facts), int(rng.integers(1, 4)))
  return tuple(facts[i] for i in rng.permutation(len(facts))[:count])


def _all_of(facts, objects):
  for fact in facts:
    objects = fact.pick(objects)
  return objects


_MAKERS = {
  "one": _named(_one),
  "group": _named(_group),
  "part": _named(_part),
  "none": _named(_none),
  "unclear": _unclear,
}
