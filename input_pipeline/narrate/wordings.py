"""What is said, in which language: a JSON file that a user can copy and translate.

say: wordings by kind, any number each; `FIELDS` lists the kinds and the `{fields}` that
each of their wordings has to hold. words, colours, sides, places, halves: one text for
each of the keys below. names: what labels are called, where that is not the label
itself: a word, or {"one": "car", "the": "the car", "many": "cars"}, each of them
optional.
"""

import dataclasses
import pathlib
import string
from collections.abc import Mapping, Sequence

from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN
from input_pipeline.regular_file import is_there, read_object
from miras_jax.errors import UserError

ENGLISH = pathlib.Path(__file__).parent / "wordings" / "en.json"

# Kind of a turn: the fields of its wordings. "seg" is where a mask is due.
FIELDS = {
  "look": ("list",),  # user: the things that the talk is about
  "look_many": ("many",),
  "look_place": ("place",),
  "which": (),  # assistant: asks which one
  "which_of": ("list",),
  "which_of_many": ("n", "many"),
  "guess": ("the",),  # assistant: takes the first thing for the one that is meant
  "guess_wrong": (),  # user, of two things
  "guess_right": (),
  "ask_word": ("word",),  # user: one of `words`
  "ask_colour": ("colour",),
  "ask_next_to": ("the",),
  "ask_above": ("the",),
  "ask_below": ("the",),
  "ask_not": ("the",),
  "ask_part": ("one",),
  "keep_colour": ("colour",),  # user: keeps several of many
  "keep_place": ("place",),
  "found": ("the",),  # assistant: what is left
  "found_one": (),
  "left": ("list",),
  "left_many": ("n", "many"),
  "request": (),  # user: wants the mask of what is left
  "request_name": ("the",),  # user: wants the mask of what the turn itself names
  "request_both": (),
  "request_piece": ("side",),
  "request_found": (),  # user: wants a mask of what may not be there
  "mask": ("seg",),
  "mask_both": ("seg", "seg"),
  "mask_none": ("seg",),
  "seek": ("one",),  # user: is there such a thing?
  "yes": (),
  "no": (),
  "misses": ("the", "one"),  # assistant: of two things it sees one
  "request_there": (),  # user: wants the mask of that one
  "request_missing": (),  # user: insists on the other one
  "edit_same": (),  # user, of the last mask (with --edits): once more
  "edit_also": ("the",),
  "edit_without": ("the",),  # of two things
  "edit_without_its": ("one",),  # of a thing and its part
  "edit_half": ("half",),
  "edit_whole": (),  # of a piece
  "edit_other": ("one",),
}
WORDS = (
  "leftmost", "rightmost", "highest", "lowest", "central", "largest", "smallest",
)  # fmt: skip
COLOURS = (
  "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black",
  "grey", "white",
)  # fmt: skip
PLACES = ("left", "right", "top", "bottom")
TABLES = {
  "words": WORDS, "colours": COLOURS, "sides": PLACES, "places": PLACES,
  "halves": PLACES,
}  # fmt: skip
PATTERNS = {
  "the": ("one",), "many": ("one",), "piece": ("side", "one"), "half": ("half", "one"),
  "lacking": ("one", "part"),
}  # fmt: skip
JOINS = ("comma", "and")
FORMS = ("one", "the", "many")
MAX_NAME = 60  # characters of a label that is still a word for something
_FORMATTER = string.Formatter()


@dataclasses.dataclass(frozen=True)
class Wordings:
  """A language. Every text in a conversation comes from here or is a label."""

  say_lists: Mapping[str, Sequence[str]]
  tables: Mapping[str, Mapping[str, str]]
  patterns: Mapping[str, str]
  joins: Mapping[str, str]
  numbers: Sequence[str]
  names: Mapping[str, Mapping[str, str]]

  @classmethod
  def load(cls, path=ENGLISH) -> "Wordings":
    """Reads a file. Raises UserError with all that is missing or wrong in it."""
    if not is_there(path):
      raise UserError(f"{path}: no such file of wordings")
    data = read_object(pathlib.Path(path))
    if faults := list(_faults(data)):
      listed = "; ".join(faults[:8]) + ("; ..." if len(faults) > 8 else "")
      raise UserError(f"{path}: {listed}; {ENGLISH} shows what belongs into it")
    names = {
      label: {"one": entry} if isinstance(entry, str) else entry
      for label, entry in data.get("names", {}).items()
    }
    return cls(
      say_lists=data["say"],
      tables={name: data[name] for name in TABLES},
      patterns=data["patterns"],
      joins=data["joins"],
      numbers=tuple(data["numbers"]),
      names=names,
    )

  def say(self, rng, kind: str, **fields: str) -> str:
    """One of the wordings of a kind, drawn from `rng`, with its fields filled in."""
    return fill(rng.choice(self.say_lists[kind]), fields | {"seg": SEG_TOKEN})

  def one(self, label: str) -> str:
    """What a label is called: "t-shirt"; an underscore is a space."""
    return self._name(label).get("one") or label.replace("_", " ").strip()

  def the(self, label: str) -> str:
    return self._form(label, "the")

  def many(self, label: str) -> str:
    return self._form(label, "many")

  def piece(self, label: str, side: str) -> str:
    """The name of the piece of a thing that lies on one side: "left shoes"."""
    fields = {"one": self.one(label), "side": self.tables["sides"][side]}
    return fill(self.patterns["piece"], fields)

  def half(self, label: str, place: str) -> str:
    """The name of what of a thing lies in one half of it: "left half of hat"."""
    fields = {"one": self.one(label), "half": self.tables["halves"][place]}
    return fill(self.patterns["half"], fields)

  def lacking(self, label: str, part: str) -> str:
    """The name of a thing less one of its parts: "car without its wheel"."""
    fields = {"one": self.one(label), "part": part}
    return fill(self.patterns["lacking"], fields)

  def join(self, parts: Sequence[str]) -> str:
    """ "the hat, the bag and the shoes"."""
    *first, last = parts
    if not first:
      return last
    return self.joins["comma"].join(first) + self.joins["and"] + last

  def number(self, n: int) -> str:
    return self.numbers[n] if n < len(self.numbers) else str(n)

  def can_name(self, label: str) -> bool:
    """Whether a label can stand in a sentence; control tokens and novels cannot."""
    word = self.one(label)
    control = any(token in word for token in (SEG_TOKEN, OBJ_TOKEN))
    return 0 < len(word) <= MAX_NAME and word.isprintable() and not control

  def _name(self, label):
    return self.names.get(label, {})

  def _form(self, label, form):
    fixed = self._name(label).get(form)
    return fixed or fill(self.patterns[form], {"one": self.one(label)})


def fill(text: str, fields: Mapping[str, str]) -> str:
  """`{name}` of a checked wording by its value; braces in a value stay as they are."""
  parts = _FORMATTER.parse(text)
  return "".join(before + (fields[name] if name else "") for before, name, *_ in parts)


def _faults(data):
  """What is missing or wrong in a file of wordings, one sentence each."""
  for name in ("say", *TABLES, "patterns", "joins", "names"):
    if not isinstance(data.get(name, {} if name == "names" else None), dict):
      yield f'"{name}" is missing or no object'
      return
  for kind, wanted in FIELDS.items():
    yield from _list_faults(data["say"].get(kind), f"say.{kind}", wanted)
  yield from _unknown(data["say"], FIELDS, "say")
  for name, keys in TABLES.items():
    for key in keys:
      yield from _text_faults(data[name].get(key), f"{name}.{key}", ())
  for name, wanted in PATTERNS.items():
    text = data["patterns"].get(name)
    yield from _text_faults(text, f"patterns.{name}", wanted)
  for name in JOINS:
    yield from _text_faults(data["joins"].get(name), f"joins.{name}", ())
  yield from _list_faults(data.get("numbers"), "numbers", ())
  yield from _name_faults(data.get("names", {}))


def _list_faults(texts, where, wanted):
  if not isinstance(texts, list) or not texts:
    yield f"{where} is missing, want a list of texts"
    return
  for i, text in enumerate(texts):
    yield from _text_faults(text, f"{where}[{i}]", wanted)


def _text_faults(text, where, wanted):
  if not isinstance(text, str) or not text:
    yield f"{where} is missing, want a text"
    return
  if SEG_TOKEN in text or OBJ_TOKEN in text:
    yield f"{where}: {text!r} holds a control token; a mask is {{seg}}"
  try:
    parts = [part[1:] for part in _FORMATTER.parse(text) if part[1] is not None]
  except ValueError as error:
    yield f"{where}: {text!r}: {error}"
    return
  if sorted(map(str, parts)) != sorted(str((name, "", None)) for name in wanted):
    fields = " ".join(f"{{{name}}}" for name in wanted) or "no field"
    yield f"{where}: {text!r} has to hold {fields}"


def _name_faults(names):
  for label, entry in names.items():
    forms = {"one": entry} if isinstance(entry, str) else entry
    if not isinstance(forms, dict):
      yield f"names.{label} is neither a word nor an object of {', '.join(FORMS)}"
      continue
    yield from _unknown(forms, FORMS, f"names.{label}")
    for form, text in forms.items():
      yield from _text_faults(text, f"names.{label}.{form}", ())


def _unknown(given, known, where):
  for key in given:
    if key not in known:
      yield f"{where}.{key} is unknown; there are {', '.join(known)}"
