"""Conversations that narrow from the scene to a group to one thing, or to none.

A talk is made for a thing that it should end with. What tells the thing from others is
spread over the turns, and the turn that asks for the mask names nothing; so only the
whole conversation leads to it. Each function returns None where the photograph has no
such talk about that thing.
"""

import dataclasses
import random
from collections.abc import Sequence

from input_pipeline import mask_ops
from input_pipeline.narrate import facts, things
from input_pipeline.narrate.things import Scene, Thing
from input_pipeline.narrate.wordings import COLOURS, PLACES, Wordings

MOST_LISTED = 4  # things that one turn names
FACT_WEIGHTS = {"ask_word": 8, "ask_colour": 16}  # of one fact; a relation has 1
TRIES = 6  # groups that are drawn in search of one with a fact about the thing
BOTH_SHARE = 0.2  # of the guesses that are answered by "both"
MISSING_SHARE = 0.4  # of the talks about a missing thing that ask for it again
PLACE_SHARE = 0.25  # of the talks that begin with a half of the photograph, if any may


@dataclasses.dataclass
class Talk:
  """A conversation as it grows; `done` gives what `write` returns."""

  scene: Scene
  words: Wordings
  rng: random.Random
  turns: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  targets: list[tuple[str, dict]] = dataclasses.field(default_factory=list)

  def ask(self, kind, **fields):
    self.turns.append(("user", self.words.say(self.rng, kind, **fields)))

  def answer(self, kind, *targets, **fields):
    self.turns.append(("assistant", self.words.say(self.rng, kind, **fields)))
    self.targets += targets

  def listed(self, group):
    return self.words.join([self.words.the(t.name) for t in group])

  def target(self, thing):
    return self.words.one(thing.name), thing.region.rle

  def done(self):
    return tuple(self.turns), tuple(self.targets)

  def maybe(self, share):
    return self.rng.random() < share


def guess(talk: Talk, thing: Thing) -> Talk | None:
  """Two things; the assistant guesses the first one: yes, no, or both."""
  if not (pair := _open_pair(talk, thing)):
    return None
  if talk.maybe(BOTH_SHARE):
    return _request_both(talk, pair)
  return _answer_guess(talk, thing, pair)


def _open_pair(talk, thing):
  if pair := _named_group(talk, thing, 2):
    talk.ask("look", list=talk.listed(pair))
    talk.answer("guess", the=talk.words.the(pair[0].name))
  return pair


def _answer_guess(talk, thing, pair):
  talk.ask("guess_right" if pair[0] is thing else "guess_wrong")
  talk.answer("mask", talk.target(thing))
  return talk


def narrow(talk: Talk, thing: Thing) -> Talk | None:
  """A group, what is true of one of it alone, and the mask of that one."""
  return _request(talk, thing) if _narrowed(talk, thing) else None


def without(talk: Talk, thing: Thing) -> Talk | None:
  """Three things less one; then both that are left, or one of them."""
  if not (group := _named_group(talk, thing, 3)):
    return None
  out = talk.rng.choice([t for t in group if t is not thing])
  pair = [t for t in group if t is not out]
  _list_group(talk, group)
  talk.ask("ask_not", the=talk.words.the(out.name))
  talk.answer("left", list=talk.listed(pair))
  if talk.maybe(0.5):
    return _request_both(talk, pair)
  if fact := _draw_fact(talk, thing, pair):
    _ask_fact(talk, fact)
  else:
    (last,) = (t for t in pair if t is not thing)
    talk.ask("ask_not", the=talk.words.the(last.name))
  _say_found(talk, thing)
  return _request(talk, thing)


def seek(talk: Talk, thing: Thing) -> Talk | None:
  """Asks whether there is such a thing, and for its mask if so. There is."""
  if thing not in talk.scene.singles:
    return None
  talk.ask("seek", one=talk.words.one(thing.name))
  talk.answer("yes")
  talk.ask("request_found")
  talk.answer("mask", talk.target(thing))
  return talk


def none(talk: Talk, thing: Thing) -> Talk | None:
  """As `seek`, for a thing that is not in the photograph: an empty mask."""
  if not (name := _absent_name(talk)):
    return None
  talk.ask("seek", one=talk.words.one(name))
  talk.answer("no")
  talk.ask("request_found")
  return _answer_empty(talk)


def name(talk: Talk, thing: Thing) -> Talk | None:
  """One round that names the thing."""
  if thing not in talk.scene.singles:
    return None
  talk.ask("request_name", the=talk.words.the(thing.name))
  talk.answer("mask", talk.target(thing))
  return talk


def name_absent(talk: Talk, thing: Thing) -> Talk | None:
  """As `name`, for a thing that is not in the photograph: an empty mask."""
  if not (name := _absent_name(talk)):
    return None
  talk.ask("request_name", the=talk.words.the(name))
  return _answer_empty(talk)


def unclear(talk: Talk, thing: Thing) -> Talk:
  """One round that asks for what nobody has named; the assistant asks which one."""
  talk.ask("request")
  talk.answer("which")
  return talk


def missing(talk: Talk, thing: Thing) -> Talk | None:
  """The thing and one that is not in the photograph, which the assistant says. Then the
  mask of the one that is there, or an empty one where the other is asked for again."""
  if thing not in talk.scene.singles or not (name := _absent_name(talk)):
    return None
  both = [talk.words.the(name), talk.words.the(thing.name)]
  talk.ask("look", list=talk.words.join(talk.rng.sample(both, 2)))
  talk.answer("misses", the=talk.words.the(thing.name), one=talk.words.one(name))
  if talk.maybe(MISSING_SHARE):
    talk.ask("request_missing")
    return _answer_empty(talk)
  talk.ask("request_there")
  talk.answer("mask", talk.target(thing))
  return talk


def _absent_name(talk):
  """A name of which everything is labelled and nothing is here, or None."""
  photo = talk.scene.photo
  here = {talk.words.one(region.name) for region in photo.regions}
  absent = [
    name
    for name in sorted(photo.complete)
    if talk.words.can_name(name) and talk.words.one(name) not in here
  ]
  return talk.rng.choice(absent) if absent else None


def _answer_empty(talk):
  photo = talk.scene.photo
  talk.answer("mask_none", ("", mask_ops.empty_rle(photo.height, photo.width)))
  return talk


def piece(talk: Talk, thing: Thing) -> Talk | None:
  """The mask of a thing, and then only of the piece of it on one side."""
  pieces = things.pieces(thing.region.rle, talk.scene.min_area)
  if not pieces:
    return None
  if pair := _open_pair(talk, thing):
    _answer_guess(talk, thing, pair)
  elif not narrow(talk, thing):
    return None
  side = talk.rng.choice(sorted(pieces))
  talk.ask("request_piece", side=talk.words.tables["sides"][side])
  talk.answer("mask", (talk.words.piece(thing.name, side), pieces[side]))
  return talk


def part(talk: Talk, thing: Thing) -> Talk | None:
  """A thing, and then only a labelled part of it."""
  parts = talk.scene.parts_of(thing)
  names = [t.name for t in parts]
  choices = [t for t in parts if talk.scene.is_target(t) and names.count(t.name) == 1]
  if not choices or not _narrowed(talk, thing):
    return None
  chosen = talk.rng.choice(choices)
  talk.ask("ask_part", one=talk.words.one(chosen.name))
  talk.answer("found_one")
  return _request(talk, chosen)


def _request(talk, thing):
  talk.ask("request")
  talk.answer("mask", talk.target(thing))
  return talk


def _request_both(talk, pair):
  talk.ask("request_both")
  talk.answer("mask_both", *map(talk.target, pair))
  return talk


def _draw_fact(talk, thing, group):
  """A fact about this thing alone, None where there is none; rather one of position,
  size or colour than one of the many relations."""
  known = [f for f in facts.facts(talk.scene, group) if f.thing is thing]
  if not known:
    return None
  weights = [FACT_WEIGHTS.get(f.kind, 1) for f in known]
  return talk.rng.choices(known, weights)[0]


def _narrowed(talk, thing):
  """Whether turns could be said after which only the thing is left; says them."""
  if thing.region.part_of is not None:
    return False
  openings = [_open_many] if _is_many(talk.scene, thing) else [_open_list]
  if talk.maybe(PLACE_SHARE):
    openings.insert(0, _open_place)
  for opening in openings:
    for _ in range(TRIES):
      start = len(talk.turns)
      group = opening(talk, thing)
      if fact := _draw_fact(talk, thing, group):
        _ask_fact(talk, fact)
        _say_found(talk, thing)
        return True
      del talk.turns[start:]
  return False


def _open_list(talk, thing) -> Sequence[Thing]:
  """Some things by name, this one among them; the group, () where there is none."""
  fewest = min(3, len(talk.scene.singles))  # of two, the assistant would guess one
  group = _named_group(talk, thing, talk.rng.randint(fewest, MOST_LISTED))
  if group:
    _list_group(talk, group)
  return group


def _list_group(talk, group):
  talk.ask("look", list=talk.listed(group))
  if talk.maybe(0.5):
    talk.answer("which")
  else:
    talk.answer("which_of", list=talk.listed(group))


def _open_many(talk, thing) -> Sequence[Thing]:
  """All things of one name, and perhaps only those of one colour or in one half."""
  words, group = talk.words, talk.scene.named(thing.name)
  many = words.many(thing.name)
  talk.ask("look_many", many=many)
  talk.answer("which_of_many", n=words.number(len(group)), many=many)
  kept = [k for k in _kept(talk.scene, group) if thing in k[2] and len(k[2]) > 1]
  if kept and len(group) > 2:
    kind, field, group = talk.rng.choice(kept)
    talk.ask(kind, **{kind.partition("_")[2]: words.tables[kind[5:] + "s"][field]})
    talk.answer("left_many", n=words.number(len(group)), many=many)
  return group


def _open_place(talk, thing) -> Sequence[Thing]:
  """What is in one half of the photograph; () where this thing is in none for sure."""
  place = talk.rng.choice(PLACES)
  inside = facts.in_half(talk.scene, place) or ()
  group = [t for t in inside if t.region.part_of is None]
  listed = [t for t in group if t in talk.scene.singles]
  if thing not in listed or not 1 < len(listed) <= MOST_LISTED:
    return ()
  if any(t.area >= talk.scene.min_area for t in group if t not in listed):
    return ()
  talk.ask("look_place", place=talk.words.tables["places"][place])
  talk.answer("which_of", list=talk.listed(listed))
  return group


def _kept(scene, group):
  """(kind of turn, key, things) for what clearly parts a group in two."""
  for colour in COLOURS:
    verdicts = [t.colours[colour] for t in group]
    if None not in verdicts:
      chosen = [t for t, yes in zip(group, verdicts, strict=True) if yes]
      yield "keep_colour", colour, chosen
  for place in PLACES:
    inside = facts.in_half(scene, place, group)
    if inside is not None and len(inside) < len(group):
      yield "keep_place", place, list(inside)


def _is_many(scene, thing):
  """Whether a thing is one of several of its name, all of them told apart."""
  group = scene.named(thing.name)
  return len(group) > 1 and not any(t.region.crowd for t in group)


def _named_group(talk, thing, count) -> list[Thing]:
  """`count` things, or as many as there are, that a name identifies, in any order;
  [] where this thing is none of them."""
  singles = talk.scene.singles
  others = [t for t in singles if t is not thing]
  if thing not in singles or len(others) < min(count, 3) - 1:
    return []
  chosen = talk.rng.sample(others, min(count - 1, len(others)))
  return talk.rng.sample([thing, *chosen], len(chosen) + 1)


def _ask_fact(talk, fact):
  words = talk.words
  if fact.kind == "ask_word":
    talk.ask(fact.kind, word=words.tables["words"][fact.word])
  elif fact.kind == "ask_colour":
    talk.ask(fact.kind, colour=words.tables["colours"][fact.word])
  else:
    talk.ask(fact.kind, the=words.the(fact.other.name))


def _say_found(talk, thing):
  if thing in talk.scene.singles and talk.maybe(0.7):
    talk.answer("found", the=talk.words.the(thing.name))
  else:
    talk.answer("found_one")
