"""An endpoint that writes by rules over HTTP and misbehaves as it is told."""

import base64
import contextlib
import io
import json
import threading

import numpy as np
from PIL import Image

from miras_jax.data.construct import rules
from tests.llm.endpoint import Do, serve

ENGLISH, GERMAN = "en", "de"


def write(body, _=0):
  """What the writer by rules answers; it looks at the disc of the vision request."""
  return Do.say(json.dumps(reply(body)))


def reply(body):
  stage = body["response_format"]["json_schema"]["name"]
  picture, text = body["messages"][1]["content"]
  if stage != "vision":
    return rules.answer(stage, text["text"])
  data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
  red, green, blue = np.asarray(Image.open(io.BytesIO(data)))[80, 80].tolist()
  return {"colour": "Purple." if red > 90 and blue > 90 and green < 60 else "grey"}


def stage_of(body):
  return body["response_format"]["json_schema"]["name"]


def elements_without_masks(body):
  """A writer that sees no annotations: three things, two paths."""
  return {
    "elements": {
      "elements": [
        {"id": f"e{k}", "name": name, "annotation": "", "part_of": "", "details": "."}
        for k, name in enumerate(("brass bell", "oak table", "window"), 1)
      ]
    },
    "tree": {
      "questions": [{"id": "q1", "text": "What calls the guests?", "score": 3}],
      "root": "A room.",
      "nodes": [
        _node("n1", "root", 1, ["e1", "e2"]),
        _node("n2", "n1", 2, ["e1"]),
      ],
      "overlaps": [],
      "paths": [{"question": "q1", "nodes": ["n1", "n2"], "focus": "e1"}],
    },
    "dialogue": {
      "turns": [
        {"node": "n1", "question": "What is in front of the light?",
         "answer": "There are two things in front of it."},
        {"node": "n2", "question": "Which of those would call the guests?",
         "answer": "Only one of them can be heard from afar."},
      ],
      "request": "Please mark the one we arrived at.",
      "last_answer": "It is the brass bell: [SEG].",
      "focus": "brass bell",
    },
    "vision": {"colour": "purple"},
  }[stage_of(body)]  # fmt: skip


def _node(i, parent, level, elements):
  return {"id": i, "parent": parent, "level": level, "inference": "It follows.",
          "elements": elements, "test": "none", "of": ""}  # fmt: skip


@contextlib.contextmanager
def down_after(count):
  """(URL, Endpoint) of a server that drops every connection after so many replies."""
  seen, lock = [], threading.Lock()

  def script(body, _):
    with lock:
      seen.append(body)
      return write(body) if len(seen) <= count else Do.drop()

  with serve(script) as served:
    yield served
