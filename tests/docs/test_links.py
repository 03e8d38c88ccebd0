"""Every link between the pages leads somewhere, on disk as on the site."""

import re
import unicodedata

import pytest

from tests.docs import commands

LINK = re.compile(r"\]\(([^)\s]+)\)")
# Pages that the site makes of files outside of docs/ (docs/site/hooks.py).
OUTSIDE = re.compile(r"https?://|mailto:")


def text_of(path):
  """A page without its blocks of code, where brackets mean other things."""
  return commands.ANY_BLOCK.sub("", path.read_text())


def anchors(path):
  """The fragments of a page: its headings as MkDocs and GitHub spell them."""
  found = set()
  for heading in re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE):
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    found.add(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
  return found


@pytest.mark.parametrize("path", commands.pages(), ids=commands.name_of)
def test_every_link_of_a_page_leads_somewhere(path):
  broken = []
  for link in LINK.findall(text_of(path)):
    if OUTSIDE.match(link):
      continue
    name, _, fragment = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists() or (fragment and fragment not in anchors(target)):
      broken.append(link)
  assert broken == []


def test_a_page_of_the_site_links_to_nothing_outside_of_docs():
  """The site has no such page; GitHub would have."""
  outside = [
    f"{commands.name_of(path)}: {link}"
    for path in (commands.ROOT / "docs").rglob("*.md")
    for link in LINK.findall(text_of(path))
    if not OUTSIDE.match(link)
    and not (path.parent / link.partition("#")[0]).resolve().is_relative_to(
      commands.ROOT / "docs"
    )
  ]  # fmt: skip
  assert outside == []
