"""A question to a language model, and the one text that stands for it.

Two requests are the same when their canonical texts are: JSON with sorted keys in which
a picture is the digest of its pixels, so that neither the order of a dict nor the
version of a JPEG encoder makes a new request. The endpoint is no part of it: a server
may move.
"""

import base64
import dataclasses
import functools
import hashlib
import json

import numpy as np

from miras_jax import drawing


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """A picture of a message: RGB uint8 (H, W, 3). It is sent as JPEG."""

  rgb_HWC: np.ndarray

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of size and pixels."""
    height, width = self.rgb_HWC.shape[:2]
    pixels = np.ascontiguousarray(self.rgb_HWC, np.uint8).tobytes()
    return hashlib.sha256(b"%d %d " % (height, width) + pixels).hexdigest()

  def url(self) -> str:
    """The picture as a data: URL."""
    data = drawing.encode(self.rgb_HWC, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


@dataclasses.dataclass(frozen=True)
class Message:
  """role: system, user or assistant. parts: texts and Pictures in reading order."""

  role: str
  parts: tuple[str | Picture, ...]


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of one model.

  form: the JSON schema that the reply must have, {} for free text. form_name: what it
  is called. json_mode: how an endpoint is told of it: "schema", "object" (JSON of any
  schema) or "none" (the prompt alone says it). extra: fields of the request as the
  endpoint wants them; None takes one away.
  """

  model: str
  messages: tuple[Message, ...]
  form: dict = dataclasses.field(default_factory=dict)
  form_name: str = "reply"
  json_mode: str = "schema"
  max_tokens: int = 600
  temperature: float = 0.0
  extra: dict = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def canonical(self) -> str:
    """ASCII JSON of the whole request, pictures as digests."""
    body = self._body(lambda p: {"type": "image", "pixels": p.digest})
    return json.dumps(body, sort_keys=True, separators=(",", ":"))

  @functools.cached_property
  def key(self) -> str:
    """SHA-256 of the canonical text."""
    return hashlib.sha256(self.canonical.encode("ascii")).hexdigest()

  def body(self) -> dict:
    """The object to send."""
    return self._body(lambda p: {"type": "image_url", "image_url": {"url": p.url()}})

  def pictures(self) -> list[Picture]:
    return [p for m in self.messages for p in m.parts if isinstance(p, Picture)]

  def longer(self) -> "Request":
    """The same request with room for a reply of twice the length."""
    extra = dict(self.extra)
    if isinstance(most := extra.get("max_completion_tokens"), int):
      extra["max_completion_tokens"] = 2 * most
    return dataclasses.replace(self, max_tokens=2 * self.max_tokens, extra=extra)

  def _body(self, of_picture):
    fields = {
      "model": self.model,
      "messages": [_message(m, of_picture) for m in self.messages],
      "temperature": self.temperature,
      "max_tokens": self.max_tokens,
    }
    if self.form and self.json_mode != "none":
      fields["response_format"] = self._format()
    fields |= self.extra
    return {name: value for name, value in fields.items() if value is not None}

  def _format(self):
    if self.json_mode == "object":
      return {"type": "json_object"}
    schema = {"name": self.form_name, "schema": self.form, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _message(message, of_picture):
  """A message without pictures is a plain text, which every server understands."""
  if not any(isinstance(part, Picture) for part in message.parts):
    return {"role": message.role, "content": _whole("\n\n".join(message.parts))}
  content = [
    of_picture(p) if isinstance(p, Picture) else {"type": "text", "text": _whole(p)}
    for p in message.parts
  ]
  return {"role": message.role, "content": content}


def _whole(text):
  """The text without half characters (lone surrogates), which UTF-8 cannot say."""
  return text.encode("utf-8", "replace").decode("utf-8")
