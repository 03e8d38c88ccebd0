"""A server of the scripted model of tests/talker.py, and pictures to send it."""

import base64
import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests import talker

pytest.importorskip("fastapi", reason="needs miras_jax[serve]")
from fastapi.testclient import TestClient  # noqa: E402

from miras_jax.serving.app import make_app  # noqa: E402
from miras_jax.serving.asking import Service  # noqa: E402
from miras_jax.serving.settings import Settings  # noqa: E402

HEIGHT, WIDTH = 8, 12


def script(prompt, image):
  """Answers to what tests ask."""
  if "which one" in prompt:
    return "Sure, [OBJ]the cup[SEG] and [SEG].", ["left", "top"]
  if "nothing" in prompt:
    return "Sure, [SEG].", ["none"]
  return "It is there.", []


def settings(**changes):
  return Settings(**{"slots": 2, "chunk": 4, "timeout": 20.0} | changes)


def service(script=script, text=None, **changes):
  loaded = talker.loaded(script, **(text or {}))
  return Service.of(loaded, settings(**changes))


@contextlib.contextmanager
def client(script=script, text=None, **changes):
  """A TestClient of a server whose engine runs; text: changes of the DataConfig."""
  made = service(script, text, **changes)
  with TestClient(make_app(made), raise_server_exceptions=False) as client:
    client.service = made
    yield client


def png(height=HEIGHT, width=WIDTH, color=90):
  stream = io.BytesIO()
  Image.fromarray(np.full((height, width, 3), color, np.uint8)).save(stream, "PNG")
  return stream.getvalue()


def base64_of(data):
  return base64.b64encode(data).decode()


def uri(data):
  return f"data:image/png;base64,{base64_of(data)}"


def start(client, image=None):
  """Address of a new conversation."""
  answer = client.post(
    "/v1/conversations", files={"image": ("a.png", image or png(), "image/png")}
  )
  assert answer.status_code == 201, answer.text
  return f"/v1/conversations/{answer.json()['conversation']}"


def say(client, talk, text="which one", **more):
  return client.post(f"{talk}/say", json={"text": text, **more})


def events(response):
  """[(kind, data)] of server-sent events."""
  blocks = [block for block in response.text.split("\n\n") if block.startswith("event")]
  lines = [block.split("\n") for block in blocks]
  return [
    (kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
    for kind, data in lines
  ]
