"""Texts on pages: nothing of them is markup, and nothing of them is hidden."""

import pytest

from miras_jax.page_text import escaped


def test_markup_is_text():
  assert escaped("<b a='\"'>&") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;"


@pytest.mark.parametrize(
  "hidden, named",
  [("\u202e", r"\u202e"), ("\u2066", r"\u2066"), ("\x1b[31m", r"\x1b[31m")]
  + [("\x00", r"\x00"), ("\ud800", "?")],
)
def test_what_nobody_would_see_is_named(hidden, named):
  assert escaped(f"IoU {hidden}0.32") == f"IoU {named}0.32"


def test_lines_and_letters_of_every_script_stay_as_they_are():
  text = "a\tb\nقطة\u200f, \u05d7\u05ea\u05d5\u05dc, 猫, 👩\u200d🚀"
  assert escaped(text) == text
