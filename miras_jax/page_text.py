"""Texts of data, models and people on pages: escaped, with nothing hidden in them."""

import html
import re

# Controls, and what turns the direction of all that follows: an answer could reverse
# the digits of the numbers beside it. Marks of single letters stay, as Arabic has them.
_HIDDEN = re.compile(
  "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)


def escaped(x) -> str:
  """`x` for the content of an element and for quoted attributes.

  A character that nobody would see is named (`\\u202e`), half a character is `?`.
  """
  shown = str(x).encode("utf-8", "replace").decode("utf-8")
  return html.escape(_HIDDEN.sub(lambda c: ascii(c[0])[1:-1], shown), quote=True)
