"""Single questions about a rendered scene: a name, and what it is the name of.

Before a conversation can narrow anything down, words have to mean regions. Here a
question names its target and nothing else has been said: one object, a part, a group,
or nothing at all. Every name is true of the scene and of nothing else in it.
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

KINDS = {"one": 0.45, "group": 0.2, "part": 0.25, "none": 0.1}


def sample_namings(scene, rng, count):
  """Up to `count` Conversations of one round each, no two with the same name."""
  makers = {"one": _one, "group": _group, "part": _part, "none": _none}
  talks, seen = [], set()
  for _ in range(4 * count):
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    found = makers[kind](scene.objects, rng)
    if found is None or found[0] in seen:
      continue
    name, target = found
    seen.add(name)
    talks.append(_talk(name, target, rng))
    if len(talks) == count:
      break
  return talks


def _talk(name, target, rng):
  def say(table):
    return str(table[rng.integers(len(table))]).format(noun=name)

  answer = wording.MASK if target.label else wording.NONE_MASK
  return Conversation(((say(wording.NAME_REQUEST), say(answer)),), (target,))


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
  choices = {
    "colour": list(COLOURS), "shape": list(SHAPES), "texture": list(TEXTURES[1:])
  }  # fmt: skip
  kinds = rng.permutation(list(choices))[:2]
  first, second = (has(str(kind), str(rng.choice(choices[kind]))) for kind in kinds)
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
