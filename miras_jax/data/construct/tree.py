"""The reasoning tree as data: root, nodes by level, notes on overlap, paths to a focus.

A node narrows what its parent left over; a path ends where one element is left.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

ROOT = "root"
MOST_ELEMENTS, MOST_NODES, MOST_PATHS, MOST_QUESTIONS = 80, 120, 40, 40
LEAST_STEPS, MOST_STEPS = 2, 4  # nodes of a path


@dataclasses.dataclass(frozen=True)
class Element:
  """Something visible. annotation: id of the region that it is, "" for none."""

  id: str
  name: str
  annotation: str
  part_of: str
  details: str


@dataclasses.dataclass(frozen=True)
class Node:
  """One inference. elements: ids of what it leaves; test, of: `measures` in words."""

  id: str
  parent: str
  level: int
  inference: str
  elements: tuple[str, ...]
  test: str
  of: str


@dataclasses.dataclass(frozen=True)
class Question:
  id: str
  text: str
  score: int


@dataclasses.dataclass(frozen=True)
class Path:
  """From a child of the root to a node that leaves the focus, an element's id."""

  question: str
  nodes: tuple[str, ...]
  focus: str


@dataclasses.dataclass(frozen=True)
class Tree:
  """What the second stage answers. overlaps: (ids of nodes, note)."""

  root: str
  questions: Mapping[str, Question]
  nodes: Mapping[str, Node]
  overlaps: tuple[tuple[tuple[str, ...], str], ...]
  paths: tuple[Path, ...]
  elements: Mapping[str, Element]

  def steps(self, path: Path) -> list[Node]:
    return [self.nodes[i] for i in path.nodes]

  def before(self, node: Node) -> tuple[str, ...]:
    """Elements that are left before a node: its parent's, all for the root's child."""
    parent = self.nodes.get(node.parent)
    return parent.elements if parent else tuple(self.elements)

  def annotations(self, elements) -> list[str]:
    """The annotations of elements that have one."""
    found = (self.elements[i].annotation for i in elements if i in self.elements)
    return [a for a in found if a]

  def data(self) -> dict:
    """JSON of the tree."""
    return {
      "root": self.root,
      "elements": [dataclasses.asdict(e) for e in self.elements.values()],
      "questions": [dataclasses.asdict(q) for q in self.questions.values()],
      "nodes": [dataclasses.asdict(n) for n in self.nodes.values()],
      "overlaps": [
        {"nodes": list(nodes), "note": note} for nodes, note in self.overlaps
      ],
      "paths": [dataclasses.asdict(p) for p in self.paths],
    }


def read_elements(value: Mapping[str, Any], annotations) -> dict[str, Element]:
  """Elements by id. Raises ValueError for ids that are no ids or annotations that are
  none, exactly."""
  elements = [Element(**e) for e in value["elements"]]
  if len(elements) > MOST_ELEMENTS:
    raise ValueError(f"{len(elements)} elements, the limit is {MOST_ELEMENTS}")
  found = _by_id(elements, "element")
  used = [e.annotation for e in elements if e.annotation]
  for annotation in used:
    if annotation not in annotations:
      raise ValueError(f"annotation {annotation[:40]!r} is none of this picture")
    if used.count(annotation) > 1:
      raise ValueError(f"annotation {annotation!r} belongs to two elements")
  return found


def read(value: Mapping[str, Any], elements: Mapping[str, Element]) -> Tree:
  """The tree of a reply. Raises ValueError for what is no tree; a path is judged by
  `path_fault`."""
  limits = ("nodes", MOST_NODES), ("paths", MOST_PATHS), ("questions", MOST_QUESTIONS)
  for name, most in limits:
    if len(value[name]) > most:
      raise ValueError(f"{len(value[name])} {name}, the limit is {most}")
  nodes = [Node(**{**n, "elements": tuple(n["elements"])}) for n in value["nodes"]]
  return Tree(
    root=value["root"],
    questions=_by_id([Question(**q) for q in value["questions"]], "question"),
    nodes=_by_id(nodes, "node"),
    overlaps=tuple((tuple(o["nodes"]), o["note"]) for o in value["overlaps"]),
    paths=tuple(Path(**{**p, "nodes": tuple(p["nodes"])}) for p in value["paths"]),
    elements=elements,
  )


def path_fault(tree: Tree, path: Path) -> str:
  """Why a path does not lead to its focus through the tree; "" where it does."""
  if not LEAST_STEPS <= len(path.nodes) <= MOST_STEPS:
    return f"{len(path.nodes)} nodes, want {LEAST_STEPS} to {MOST_STEPS}"
  if missing := [i for i in path.nodes if i not in tree.nodes]:
    return f"node {missing[0][:40]!r} is not in the tree"
  if path.question not in tree.questions:
    return f"question {path.question[:40]!r} is not in the tree"
  if path.focus not in tree.elements:
    return f"focus {path.focus[:40]!r} is no element"
  parent = ROOT
  for level, node in enumerate(tree.steps(path), 1):
    if node.parent != parent or node.level != level:
      return f"node {node.id!r} is not on level {level} below {parent!r}"
    left, before = set(node.elements), set(tree.before(node))
    if not left <= before or left == before:
      return f"node {node.id!r} does not narrow what {parent!r} leaves"
    parent = node.id
  if tree.nodes[parent].elements != (path.focus,):
    return f"node {parent!r} does not leave the focus alone"
  return ""


def _by_id(items, kind):
  found = {item.id: item for item in items}
  if len(found) < len(items) or ROOT in found or not all(i.strip() for i in found):
    raise ValueError(f"the ids of its {kind}s are not different")
  return found
