"""The lists of a JSON file of any size, one element at a time, at the speed of `json`.

A tokenizer that knows no end of a number is many times slower than the parser of
Python; so whole elements are cut out of the text and given to that one.
"""

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

MAX_ELEMENT = 64 * 2**20  # characters of JSON text
_BLOCK = 1 << 20  # bytes
_LOOK_AHEAD = 8  # characters: 12 before the end of a block may become 12.5 or 12e-3
_SPACE = " \t\n\r"


def elements(file: BinaryIO, limit: int = MAX_ELEMENT) -> Iterator[tuple[str, object]]:
  """(key, element) of each list at the top of a JSON object, in their order; the key
  is "" where the file is a list itself. Values that are no lists are passed over.

  Raises ValueError with a reason, also for an element longer than `limit`.
  """
  text = _Text(file, limit)
  sign = text.sign()
  if sign == "[":
    yield from (("", value) for value in _list(text))
  elif sign == "{":
    yield from _object(text)
  else:
    raise ValueError("is not valid JSON: no list or object")
  if text.peek():
    raise ValueError("is not valid JSON: something comes after its end")


def _object(text):
  if text.peek() == "}":
    text.sign()
    return
  while True:
    key = text.value()
    if not isinstance(key, str) or text.sign() != ":":
      raise ValueError("is not valid JSON: want a key and a colon")
    if text.peek() == "[":
      text.sign()
      yield from ((key, value) for value in _list(text))
    else:
      text.value()
    if not _goes_on(text, "}"):
      return


def _list(text):
  if text.peek() == "]":
    text.sign()
    return
  while True:
    yield text.value()
    if not _goes_on(text, "]"):
      return


def _goes_on(text, end):
  sign = text.sign()
  if sign not in (",", end):
    raise ValueError(f"is not valid JSON: {sign!r} where , or {end} is due")
  return sign == ","


class _Text:
  """The text that was read and not yet used."""

  def __init__(self, file, limit):
    self._file, self._limit = file, limit
    self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    self._parse = json.JSONDecoder().raw_decode
    self._text, self._at, self._ended = "", 0, False

  def peek(self) -> str:
    """The next character that is no space, "" at the end of the file."""
    while True:
      while self._at < len(self._text) and self._text[self._at] in _SPACE:
        self._at += 1
      if self._at < len(self._text) or not self._more():
        return self._text[self._at : self._at + 1]

  def sign(self) -> str:
    character = self.peek()
    self._at += len(character)
    return character

  def value(self):
    """The next JSON value."""
    self.peek()
    while True:
      try:
        value, end = self._parse(self._text, self._at)
        if len(self._text) - end >= _LOOK_AHEAD or not self._more():
          self._at = end
          return value
      except json.JSONDecodeError as error:
        if not self._more():
          raise ValueError(f"is not valid JSON: {error.msg}") from None
      except RecursionError:
        raise ValueError("is not valid JSON: nested too deeply") from None
      except ValueError:
        raise ValueError("is not valid JSON: a number has too many digits") from None

  def _more(self):
    """Reads on, as much as there is already, and drops what was used."""
    if self._ended:
      return False
    pending = len(self._text) - self._at
    if pending > self._limit:
      raise ValueError(
        f"is not valid JSON, or has an element of more than {self._limit:,} characters"
      )
    block = self._file.read(max(_BLOCK, pending))
    try:
      text = self._decode(block, final=not block)
    except UnicodeDecodeError as error:
      raise ValueError(f"is not UTF-8: {error.reason}") from None
    if not block:
      self._ended = True
      return False
    self._text, self._at = self._text[self._at :] + text, 0
    return True
