"""A writer by rules: answers the requests of every stage from the DATA in their text.

It sees no picture. It is there for data without a language model and for tests of what
surrounds one; its dialogues are true of the masks and dull. `--model=rules`.
"""

import functools
import hashlib
import importlib.resources
import json
import random

from miras_jax.data.construct import tree
from miras_jax.data.construct.measures import PART
from miras_jax.data.construct.stages import DATA
from miras_jax.llm import reply as replies
from miras_jax.llm.pace import Pace
from miras_jax.llm.request import Request
from miras_jax.llm.store import Store

NAME = "rules"
TRIES = 24  # chains that are drawn for each focus
CHAINS = 2  # of one focus, at most
_APART = 0.07  # of a side, between places of the table, which are rounded
_LARGER = 1.7
_ORDER = {
  "leftmost": ("x", 1), "rightmost": ("x", -1), "highest": ("y", 1),
  "lowest": ("y", -1), "largest": ("area", -1), "smallest": ("area", 1),
}  # fmt: skip


class RulesClient:
  """Stands where `llm.client.Client` stands; its answers go into the store, too."""

  def __init__(self, store: Store):
    self.store, self.pace = store, Pace()

  def has(self, request: Request) -> bool:
    return self.store.get(request.key) is not None

  def ask(self, request: Request) -> replies.Reply:
    body = self.store.get(request.key)
    if body is None:
      text = request.messages[1].parts[-1]
      body = completion(json.dumps(answer(request.form_name, text)))
      body = self.store.put(request.key, request.canonical, NAME, body)
    return replies.read(body)


def completion(text: str) -> str:
  """The body of a chat completion that says `text`."""
  message = {"role": "assistant", "content": text}
  choice = {"index": 0, "message": message, "finish_reason": "stop"}
  return json.dumps({"object": "chat.completion", "model": NAME, "choices": [choice]})


def answer(stage: str, text: str) -> dict:
  """The reply to a request of a stage by the text of its question."""
  data = json.loads(text.rpartition(DATA)[2])
  seed = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).digest()
  rng = random.Random(int.from_bytes(seed[:16], "big"))
  return {"elements": _elements, "tree": _tree, "dialogue": _dialogue}[stage](data, rng)


def _elements(data, _):
  numbered = enumerate(data["annotations"], 1)
  ids = {row["id"]: f"e{number}" for number, row in numbered}
  return {
    "elements": [
      {
        "id": ids[row["id"]],
        "name": row["name"],
        "annotation": row["id"],
        "part_of": ids.get(row.get("part_of"), ""),
        "details": f"It takes up {row['area']:.1%} of the picture.",
      }
      for row in data["annotations"]
    ]
  }


def _tree(data, rng):
  words = _words()
  rows = {row["id"]: row for row in data["annotations"]}
  element = {e["annotation"]: e["id"] for e in data["elements"]}
  names = {i: row["name"] for i, row in rows.items()}
  grown = _Grown(words, element, rows)
  listed = ", ".join(f"the {name}" for name in names.values()) or "nothing known"
  chains = []
  focuses = [i for i in rows if rows[i]["target"] and _is_alone(i, names)]
  for focus in focuses if data["whole"] else ():
    found = []
    for _ in range(TRIES):
      chain = _chain_to(rows, data["tests"], focus, rng)
      if chain and chain not in found:
        found.append(chain)
    chains += [(focus, chain) for chain in found[:CHAINS]]
  # Each focus before one is taken a second time.
  rng.shuffle(chains)
  for focus, chain in sorted(chains, key=_turns_of(chains))[: data["paths"]]:
    grown.add(focus, chain)
  return {
    "questions": grown.questions,
    "root": words["root"].format(list=listed),
    "nodes": list(grown.nodes.values()),
    "overlaps": grown.overlaps(),
    "paths": grown.paths,
  }


def _turns_of(chains):
  seen, place = {}, {}
  for focus, chain in chains:
    place[focus, chain] = seen[focus] = seen.get(focus, -1) + 1
  return lambda item: place[item]


def _is_alone(thing, names):
  """Whether no other name is, holds or is held by that of a thing."""
  name = names[thing].casefold()
  others = [n.casefold() for i, n in names.items() if i != thing]
  return not any(name in other or other in name for other in others)


def _chain_to(rows, tests, focus, rng):
  """As `_chain`; to a part by way of what it is a part of."""
  wholes = {i: row for i, row in rows.items() if "part_of" not in row}
  if focus in wholes:
    return _chain(wholes, tests, focus, rng)
  whole = rows[focus]["part_of"]
  chain = _chain(wholes, tests, whole, rng) if whole in wholes else None
  if chain is None:
    return None
  (inside,) = (t["yes"] for t in tests if (t["test"], t["of"]) == (PART, whole))
  chain += ((PART, whole, frozenset(inside)),)
  if len(inside) > 1:
    direct = [i for i in inside if rows[i]["part_of"] == whole]
    kinds = [k for k in _ORDER if _wins(rows, direct, k, focus)]
    if len(direct) < 2 or not kinds:
      return None
    chain += ((rng.choice(kinds), "", frozenset([focus])),)
  return chain if len(chain) <= tree.MOST_STEPS else None


def _chain(rows, tests, focus, rng):
  """((test, of, what is left), ...) down to a focus; None where none was found."""
  left, steps = frozenset(rows), []
  pool = [t for t in tests if focus in t["yes"] and t["of"] != focus]
  rng.shuffle(pool)
  for test in pool:
    yes, unsure = (rows.keys() & test[side] for side in ("yes", "unsure"))
    kept = left & yes
    if left & unsure or kept == left or len(yes | unsure) < 2:
      continue
    left, steps = kept, [*steps, (test["test"], test["of"], kept)]
    if len(left) == 1 or len(steps) == tree.MOST_STEPS - 1:
      break
  if len(left) > 1 and steps:
    kinds = [k for k in _ORDER if _wins(rows, left, k, focus)]
    kinds = [k for k in kinds if _first(rows, rows, k) != focus]
    if not kinds:
      return None
    left = frozenset([focus])
    steps.append((rng.choice(kinds), "", left))
  return tuple(steps) if len(left) == 1 and len(steps) >= tree.LEAST_STEPS else None


def _first(rows, group, kind):
  key, sign = _ORDER[kind]
  return min(sorted(group), key=lambda i: sign * rows[i][key])


def _wins(rows, group, kind, focus):
  """Whether a thing is an extreme of a group by more than rounding may hide."""
  key, sign = _ORDER[kind]
  mine = rows[focus][key]
  others = [rows[i][key] for i in group if i != focus]
  if key != "area":
    return all(sign * (other - mine) >= _APART for other in others)
  pairs = [(mine, o) if sign < 0 else (o, mine) for o in others]
  return all(large >= _LARGER * small for large, small in pairs)


class _Grown:
  """A tree as chains are added: what chains share is one node."""

  def __init__(self, words, element, rows):
    self._words, self._element, self._rows = words, element, rows
    self._names = {i: row["name"] for i, row in rows.items()}
    self.nodes, self.paths, self.questions = {}, [], []

  def add(self, focus, chain):
    parent, ids, said = tree.ROOT, [], []
    for level, (test, of, left) in enumerate(chain, 1):
      if level < len(chain):
        left = self._with_parts(left)
      node = self.nodes.setdefault((parent, test, of, left), {})
      known = self._element.get(of, of)
      inference = self._words["inference"][test].format(
        the=f"the {self._names.get(of, '')}", word=of
      )
      node.setdefault("id", f"n{len(self.nodes)}")
      node |= {
        "parent": parent,
        "level": level,
        "inference": f"{inference[0].upper()}{inference[1:]}.",
        "elements": [self._element[i] for i in self._names if i in left],
        "test": test,
        "of": known,
      }
      parent = node["id"]
      ids.append(parent)
      said.append(inference)
    question = f"q{len(self.questions) + 1}"
    text = self._words["question"].format(chain="; ".join(said))
    score = 2 if len(chain) == tree.LEAST_STEPS else 3
    self.questions.append({"id": question, "text": text, "score": score})
    self.paths.append(
      {"question": question, "nodes": ids, "focus": self._element[focus]}
    )

  def _with_parts(self, left):
    """Things and the parts of them, at any level: a path may still lead to one."""
    while found := {
      i for i, row in self._rows.items() if row.get("part_of") in left and i not in left
    }:
      left = left | found
    return left

  def overlaps(self):
    """Notes on children of the root that leave the same things."""
    first = [n for n in self.nodes.values() if n["level"] == 1]
    found = []
    for k, one in enumerate(first):
      for other in first[k + 1 :]:
        shared = [i for i in one["elements"] if i in other["elements"]]
        if shared:
          note = f"Both leave {', '.join(shared)}."
          found.append({"nodes": [one["id"], other["id"]], "note": note})
    return found


def _dialogue(data, rng):
  words, names = _words(), data["names"]
  turns = []
  for step in data["path"]:
    table = words["first" if step["level"] == 1 else "next"]
    the = f"the {names.get(step['of'], '')}"
    question = rng.choice(table[step["test"]]).format(the=the, word=step["of"])
    count = step.get("count", len(step["elements"]))
    said = rng.choice(words["one" if count == 1 else "many"])
    n = words["numbers"][count] if count < len(words["numbers"]) else str(count)
    turns.append({"node": step["id"], "question": question, "answer": said.format(n=n)})
  name = data["focus"]["name"]
  return {
    "turns": turns,
    "request": rng.choice(words["request"]),
    "last_answer": rng.choice(words["last"]).format(end=f"the {name}"),
    "focus": name,
  }


@functools.cache
def _words():
  here = importlib.resources.files("miras_jax.data.construct")
  return json.loads(here.joinpath("rules.json").read_text(encoding="utf-8"))
