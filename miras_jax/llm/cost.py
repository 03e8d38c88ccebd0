"""What a run will cost, before it starts: tokens guessed from letters and pictures.

No tokenizer of the endpoint is at hand. Four letters a token hold for English to a
fifth or so; other scripts count a token a letter, which is more than they take.
"""

import importlib.resources
import json
import math
import re
from typing import NamedTuple

from miras_jax.errors import UserError
from miras_jax.llm.request import Request

LETTERS = 4  # of English in a token
PER_MESSAGE = 4
PICTURE, TILE, TILE_SIDE = 85, 170, 512  # tokens of a picture, and of each tile of it


class Price(NamedTuple):
  """USD per million tokens."""

  input: float
  output: float

  def of(self, tokens_in, tokens_out) -> float:
    return (self.input * tokens_in + self.output * tokens_out) / 1e6


class Estimate(NamedTuple):
  """What is still to be asked. usual, most: tokens of the replies."""

  requests: int = 0
  stored: int = 0
  tokens_in: int = 0
  usual: int = 0
  most: int = 0

  def add(self, request: Request, stored: bool, usual: int) -> "Estimate":
    """With one request more. usual: tokens that its reply is thought to take."""
    if stored:
      return self._replace(stored=self.stored + 1)
    return self._replace(
      requests=self.requests + 1,
      tokens_in=self.tokens_in + count_tokens(request),
      usual=self.usual + min(usual, request.max_tokens),
      most=self.most + request.max_tokens,
    )

  def dollars(self, price: Price) -> tuple[float, float]:
    """(usual, most) without requests that must be repeated."""
    return price.of(self.tokens_in, self.usual), price.of(self.tokens_in, self.most)

  def text(self, price: Price | None) -> str:
    """One line for people."""
    line = (
      f"{self.requests:,} requests to send ({self.stored:,} answered before), about"
      f" {self.tokens_in:,} tokens in and {self.usual:,} out"
    )
    if not self.requests:
      return line
    if price is None:
      return f"{line}; no price known (--price=IN,OUT in USD per million tokens)"
    usual, most = self.dollars(price)
    return f"{line}: about ${usual:.2f}, ${most:.2f} if each reply is the longest"


def count_tokens(request: Request) -> int:
  """About how many tokens a request has."""
  texts = [p for m in request.messages for p in m.parts if isinstance(p, str)]
  texts.append(json.dumps(request.form) if request.form else "")
  tokens = PER_MESSAGE * len(request.messages) + sum(map(_text_tokens, texts))
  for picture in request.pictures():
    height, width = picture.rgb_HWC.shape[:2]
    tiles = math.ceil(height / TILE_SIDE) * math.ceil(width / TILE_SIDE)
    tokens += PICTURE + TILE * tiles
  return tokens


def _text_tokens(text):
  plain = sum(letter.isascii() for letter in text)
  return math.ceil(plain / LETTERS) + len(text) - plain


def find_price(model: str, given: str | None = None) -> Price | None:
  """The price of a model: `given` (IN,OUT), or the table's; None where none is known.

  Raises UserError for a price that is none.
  """
  if given is not None:
    return _parse(given)
  table = importlib.resources.files("miras_jax.llm").joinpath("prices.json")
  models = json.loads(table.read_text(encoding="utf-8"))["models"]
  undated = re.sub(r"-\d{4}-\d\d-\d\d$", "", model.rsplit("/", 1)[-1])
  return Price(*models[undated]) if undated in models else None


def _parse(text):
  try:
    found = [float(part) for part in text.split(",")]
  except ValueError:
    found = []
  if len(found) != 2 or not all(math.isfinite(x) and x >= 0 for x in found):
    raise UserError(
      f"--price={text}: want IN,OUT in USD per million tokens, e.g. 2.5,10"
    )
  return Price(*found)
