"""Sound conversations made wrong in ten ways, each with the reason that it must get."""

import copy
import dataclasses

from miras_jax.data.construct import checks, claims, stages


def plant(kind, subject, tree, path, value, rng):
  """(path, value) with a fault of a kind; None where it does not fit here."""
  return PLANT[kind](subject, tree, path, copy.deepcopy(value), rng)


def judge(making, subject, tree, path, value):
  """The reason for which a conversation is rejected; None where it passes."""
  if fault := checks.path_fault(tree, path, subject.measures, making.prompts):
    return fault[0]
  draft = stages.make_draft(subject, tree, path, value)
  found = checks.faults(draft, value, making)
  return found[0][0] if found else None


def _named_early(subject, tree, path, value, rng):
  name = tree.elements[path.focus].name
  turn = rng.choice(value["turns"])
  turn["answer"] = (
    f"{turn['answer']} The {rng.choice([name, name + 's'])} is there, too."
  )
  return path, value


def _single_turn(subject, tree, path, value, rng):
  known = subject.measures
  focus = tree.elements[path.focus].annotation
  kinds = [
    k for k in ("leftmost", "rightmost", "highest", "lowest", "largest", "smallest")
    if known.winner(k, known.things) == focus
  ]  # fmt: skip
  others = [known.things[i].name for i in known.targets() if i != focus]
  turn = rng.choice(value["turns"])
  if kinds and rng.random() < 0.6:
    turn["question"] = (
      f"Of everything in the picture I want the {rng.choice(kinds)} one."
    )
  else:
    turn["question"] = f"It is not {', not '.join(f'the {n}' for n in others)}."
  return path, value


def _focus_unique(subject, tree, path, value, rng):
  others = [e.name for e in tree.elements.values() if e.id != path.focus]
  value["focus"] = rng.choice(others)
  return path, value


def _focus_kind(subject, tree, path, value, rng):
  name = tree.elements[path.focus].name
  wrong = ["shadow of the {}", "soft light", "{} and its shadow", "{}, and more"]
  wrong = rng.choice(wrong + ["blue tone", "reflections", "{} with the rest; both"])
  value["focus"] = wrong.format(name)
  if wrong == "shadow of the {}":
    value["focus"] = "the shadow"
  return path, value


def _focus_id(subject, tree, path, value, rng):
  """The element is tied to what is no annotation, be it that its name fits."""
  element = tree.elements[path.focus]
  wrong = rng.choice(["", "a99", element.name, f"{element.annotation} ", "A0"])
  changed = dataclasses.replace(element, annotation=wrong)
  tree.elements[path.focus] = changed
  return path, value


def _count(subject, tree, path, value, rng):
  k = rng.randrange(len(path.nodes))
  right = len(tree.nodes[path.nodes[k]].elements)
  words = [w for i, w in enumerate(claims._NUMBERS[1:8], 1) if i != right]
  said = rng.choice(
    ["I count {} things.", "There are {} of them.", "{} things remain."]
  )
  value["turns"][k]["answer"] = said.format(rng.choice(words))
  return path, value


def _side(subject, tree, path, value, rng):
  known, focus = subject.measures, tree.elements[path.focus].annotation
  choices = [
    (known.things[i].name, wrong)
    for i in known.things
    if i != focus
    for side, wrong in (("left", "right"), ("right", "left"), ("top", "bottom"))
    if known.verdict(side, "", i)
  ]
  if not choices:
    return None
  name, wrong = rng.choice(choices)
  turn = rng.choice(value["turns"])
  place = rng.choice([f"on the {wrong}", f"at the {wrong} of the picture"])
  turn["answer"] += f" By the way, the {name} lies {place}."
  return path, value


def _size(subject, tree, path, value, rng):
  known, focus = subject.measures, tree.elements[path.focus].annotation
  pairs = [
    (known.things[i].name, known.things[j].name)
    for i in known.things
    for j in known.things
    if i != j and focus not in (i, j) and known.verdict("larger", j, i)
  ]
  if not pairs:
    return None
  large, small = rng.choice(pairs)
  turn = rng.choice(value["turns"])
  turn["answer"] += rng.choice(
    [f" The {small} is larger than the {large}.", f" The {large} is smaller than the"
     f" {small}.", f" The {small} takes up more of the picture than the {large}."]
  )  # fmt: skip
  return path, value


def _form(subject, tree, path, value, rng):
  which = rng.randrange(4)
  if which == 0:
    value["last_answer"] = value["last_answer"].replace("[SEG]", "the mask")
  elif which == 1:
    value["last_answer"] += " And [SEG]."
  elif which == 2:
    rng.choice(value["turns"])["answer"] += " [SEG]"
  else:
    rng.choice(value["turns"])["question"] += " <image> [SEG]"
  return path, value


def _language(subject, tree, path, value, rng):
  words = rng.choice([
    ("Welche Dinge liegen weiter oben?", "Dort befinden sich mehrere davon.",
     "Markiere bitte das Ergebnis.", "Hier: [SEG]."),
    ("Quels objets touchent celui du milieu ?", "Il reste plusieurs choses.",
     "Montre le masque final.", "Voici le masque : [SEG]."),
    ("哪些东西在上面？", "还有几个。", "请把它标出来。", "就是这个：[SEG]。"),
  ])  # fmt: skip
  for k, turn in enumerate(value["turns"]):
    turn["question"], turn["answer"] = f"{words[0]} {'.' * k}", words[1]
    turn["question"] = " ".join([words[0]] * (k + 1))
  value["request"], value["last_answer"] = words[2:]
  return path, value


PLANT = {
  "named_early": _named_early,
  "single_turn": _single_turn,
  "focus_unique": _focus_unique,
  "focus_kind": _focus_kind,
  "focus_id": _focus_id,
  "count": _count,
  "side": _side,
  "size": _size,
  "form": _form,
  "language": _language,
}
