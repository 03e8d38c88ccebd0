"""Checks that a language model's text does not pass by itself, one reason each.

Those of the path come before a dialogue is asked for; those of a dialogue look at its
form, its words, and at what masks can refute.
"""

import re
from collections.abc import Iterator

from input_pipeline.audit import texts
from input_pipeline.records import SEG_TOKEN
from miras_jax.data.construct import claims, tree
from miras_jax.data.construct.drafts import Draft

TREE, SCORE, SURPLUS = "tree", "score", "surplus"
REASONS = {
  "reply_refused": "the model declined",
  "reply_broken": "no reply had the form that was asked for",
  "reply_half": "every reply was cut off",
  TREE: "tree, path or rounds do not fit together",
  SCORE: "the question needs one look",
  SURPLUS: "more paths than were asked for",
  "focus_id": "the focus is no annotation that a mask can be asked of",
  "focus_kind": "the focus is light, a tone, a colour, or several things",
  "focus_unique": "the focus may be another thing of the picture, too",
  "form": "the token [SEG] or another control token is out of place",
  "length": "too short or too long",
  "style": "markup, ids, links, or talk about the task",
  "language": "another language than was asked for",
  "repeat": "a turn or a conversation is said twice",
  "named_early": "the focus is named before the last answer",
  "single_turn": "one turn by itself tells which thing it is",
  "count": "a number that the masks contradict",
  "side": "a place that the masks contradict",
  "size": "an order of size that the masks contradict",
  "relation": "a neighbour or a colour that the masks contradict",
  "guessed": "a guesser that reads one turn and no picture finds the focus",
}
MOST_LETTERS, LEAST_LETTERS = 300, 4
MOST_FOCUS_WORDS, MOST_FOCUS_LETTERS = 10, 80
_LIST = re.compile(r"\b(?:plus|with all|as well as)\b|[,;/&+]", re.I)
_JOINED = re.compile(r"\b(?:and|or)\b", re.I)
_AFTER_HEAD = re.compile(
  r"\b(?:of|with|on|in|at|from|by|for|near|under|over|behind|that|which|who)\b", re.I
)
_STYLE = re.compile(
  r"https?://|www\.|```|\*\*|^\s*(?:[-*#>]|\d+[.)])\s|\n|[{}<>|]|\b[aen]\d{1,3}\b"
  r"|\b(?:annotat\w*|bounding box\w*|DATA|JSON|as an AI|language model)\b"
  r"|[\U0001F000-\U0001FAFF\u2600-\u27BF]"
)
_FUNCTION = frozenset(
  "a an the is are of in on at to it its that this these those which what of and or not"
  " do does i you we me there here then now with from for by than as one only be can"
  " them they please what's where how any keep".split()
)
_LEAST_FUNCTION = 0.2  # share of such words in English
_LEAST_ASCII = 0.9


def path_fault(made, path, known, prompts) -> tuple[str, str] | None:
  """(reason, detail) why a path is worth no dialogue, None where it is."""
  if fault := tree.path_fault(made, path):
    return TREE, fault
  element = made.elements[path.focus]
  if known and element.annotation not in known.targets():
    return "focus_id", f"element {element.id!r} has no annotation of its own"
  if fault := focus_kind(element.name, prompts.no_focus):
    return "focus_kind", fault
  return next(claims.of_path(made, path, known), None) if known else None


def focus_kind(name: str, no_focus) -> str:
  """Why a phrase is no distinct thing; "" where it is one."""
  head = head_of(name)
  if words_of(head)[-1:] and words_of(head)[-1] in no_focus:
    return f"{name!r} is no thing with edges"
  if found := _LIST.search(name) or _JOINED.search(head):
    return f"{name!r} is a compound: {found[0]!r}"
  return ""


def head_of(phrase: str) -> str:
  """What ends with the noun of a phrase: "logo" of "logo on the watch"."""
  head = _AFTER_HEAD.split(phrase, 1)[0]
  return head if words_of(head) else phrase


def faults(draft: Draft, value, stages) -> list[tuple[str, str]]:
  """Every (reason, detail) against a dialogue; value: the reply it was made of."""
  found = []
  if tuple(turn["node"] for turn in value["turns"]) != draft.path.nodes:
    found.append((TREE, "its rounds are not the nodes of the path"))
  found += _focus(draft, stages.prompts.no_focus)
  found += _form(draft)
  found += _length(draft)
  found += _style(draft)
  if stages.prompts.language == "en":
    found += _language(draft)
  found += _repeats(draft)
  found += named_early(draft)
  if draft.measures:
    found += claims.of_turns(draft)
    found += claims.single_turn(draft, stages.wordings)
  return found


def words_of(text: str) -> list[str]:
  return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.casefold())


def _focus(draft, no_focus):
  if fault := focus_kind(draft.focus, no_focus):
    yield "focus_kind", fault
  phrase = plain(draft.focus)
  if draft.measures:
    own = draft.measures.things[draft.annotation].name
    above = draft.measures.above(draft.annotation)
    others = [
      (t.name, i in above)
      for i, t in draft.measures.things.items()
      if i != draft.annotation
    ]
  else:
    own = draft.tree.elements[draft.path.focus].name
    elements = draft.tree.elements.values()
    others = [(e.name, False) for e in elements if e.id != draft.path.focus]
  head = plain(own)
  for name, is_whole in others:
    other = plain(name)
    # "The wheel of the car" is no car.
    alike = other == phrase or other in phrase and other not in head and not is_whole
    # The published loader takes every label that holds the focus.
    if alike or phrase in other:
      yield "focus_unique", f"{draft.focus!r} may be {other!r}"
      return


def plain(text: str) -> str:
  return " ".join(words_of(text))


def _form(draft) -> Iterator[tuple[str, str]]:
  marks = list(texts.control_tokens(draft.turns, [draft.focus]))
  if marks:
    yield "form", marks[0]
  texts_ = [draft.focus, *(text for _, text in draft.turns)]
  if odd := [c for text in texts_ for c in text if not c.isprintable()]:
    yield "form", f"holds the character {odd[0]!a}"  # half a character, too
  counts = [t.count(SEG_TOKEN) if r == "assistant" else 0 for r, t in draft.turns]
  if counts[-1] != 1 or sum(counts) != 1:
    yield "form", f"{SEG_TOKEN} stands {sum(counts)} times, want it in the last answer"


def _length(draft):
  for number, (_, text) in enumerate(draft.turns):
    letters = len(text.replace(SEG_TOKEN, "").strip())
    last = number == len(draft.turns) - 1
    if not (last or LEAST_LETTERS <= letters) or letters > MOST_LETTERS:
      yield "length", f"turn {number} has {letters} letters"
      return
  focus = words_of(draft.focus)
  if not 1 <= len(focus) <= MOST_FOCUS_WORDS or len(draft.focus) > MOST_FOCUS_LETTERS:
    yield "length", f"the focus has {len(focus)} words"


def _style(draft):
  for number, (_, text) in enumerate(draft.turns):
    if found := _STYLE.search(text.replace(SEG_TOKEN, "")):
      yield "style", f"turn {number}: {found[0].strip()[:40]!r}"
      return


def _language(draft):
  """Of several turns together: single ones are too short to tell."""
  # The last round is alike in all dialogues, be the others in another language.
  for turns in (draft.turns[:-2], draft.turns):
    if fault := _foreign(" ".join(text for _, text in turns)):
      yield "language", fault
      return


def _foreign(text):
  """Why a text is no English; "" where it may be."""
  text = text.replace(SEG_TOKEN, " ")
  letters = [letter for letter in text if letter.isalpha()]
  words = words_of(text)
  if sum(c.isascii() for c in letters) < _LEAST_ASCII * len(letters):
    return "other letters than English has"
  if sum(w in _FUNCTION for w in words) < _LEAST_FUNCTION * len(words):
    return "hardly a word of English grammar"
  return ""


def _repeats(draft):
  said = [plain(text) for role, text in draft.turns if role == "user"]
  twice = [text for text in said if said.count(text) > 1]
  if twice:
    yield "repeat", f"{twice[0][:60]!r} is asked twice"


def named_early(draft: Draft) -> Iterator[tuple[str, str]]:
  """The focus, its name, or the noun of either before the last answer."""
  heads = (words_of(head_of(name))[-1:] for name in (draft.focus, draft.names[0]))
  nouns = {stem(word) for head in heads for word in head}
  for number, (_, text) in enumerate(draft.early()):
    said = {stem(part) for word in words_of(text) for part in (word, *word.split("-"))}
    if found := sorted(nouns & said):
      yield "named_early", f"turn {number} says {found[0]!r}"
      return


def stem(word: str) -> str:
  """A word without its plural."""
  if word.endswith("ies") and len(word) > 4:
    return word[:-3] + "y"
  if word.endswith(("ses", "xes", "ches", "shes")):
    return word[:-2]
  return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
