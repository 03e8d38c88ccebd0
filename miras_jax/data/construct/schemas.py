"""What each stage has to answer, as pydantic models (made when they are asked for)."""

import functools
from typing import Literal

from miras_jax.data.construct.measures import KINDS
from miras_jax.llm import forms


@functools.cache
def elements():
  element = forms.make(
    "Element",
    {"id": str, "name": str, "annotation": str, "part_of": str, "details": str},
  )
  return forms.make("Elements", {"elements": list[element]})


@functools.cache
def tree():
  question = forms.make("Question", {"id": str, "text": str, "score": Literal[1, 2, 3]})
  node = forms.make(
    "Node",
    {"id": str, "parent": str, "level": int, "inference": str, "elements": list[str]}
    | {"test": Literal[KINDS], "of": str},
  )
  overlap = forms.make("Overlap", {"nodes": list[str], "note": str})
  path = forms.make("Path", {"question": str, "nodes": list[str], "focus": str})
  return forms.make(
    "Tree",
    {"questions": list[question], "root": str, "nodes": list[node]}
    | {"overlaps": list[overlap], "paths": list[path]},
  )


@functools.cache
def dialogue():
  turn = forms.make("Turn", {"node": str, "question": str, "answer": str})
  return forms.make(
    "Dialogue",
    {"turns": list[turn], "request": str, "last_answer": str, "focus": str},
  )


@functools.cache
def vision():
  return forms.make("Vision", {"colour": str})


FORMS = {"elements": elements, "tree": tree, "dialogue": dialogue, "vision": vision}


@functools.cache
def schema(stage: str) -> dict:
  """The JSON schema of a stage; not to be changed."""
  return forms.schema(FORMS[stage]())
