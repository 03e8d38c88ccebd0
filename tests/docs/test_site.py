"""The site builds without a warning, its links lead somewhere, it needs no network."""

import html.parser
import importlib.util
import os
import pathlib
import subprocess
import sys
import types
import urllib.parse

import pytest

from miras_jax import cli
from tests.docs import commands

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]' brings mkdocs")
pytest.importorskip("material", reason="pip install -e '.[docs]' brings its theme")
pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]' brings it")


class Page(html.parser.HTMLParser):
  """links: href of <a>; loaded: what a browser fetches to show the page; ids."""

  def __init__(self, path):
    super().__init__()
    self.links, self.loaded, self.ids = [], [], {""}
    self.feed(path.read_text(encoding="utf-8"))

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
    if tag == "a" and attrs.get("href"):
      self.links.append(attrs["href"])
    elif tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
      self.loaded.append(attrs["href"])
    elif attrs.get("src"):
      self.loaded.append(attrs["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """{path: Page} of the built site."""
  folder = tmp_path_factory.mktemp("site")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
    cwd=commands.ROOT,
    env=os.environ | {"PYTHONPATH": str(commands.ROOT), "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "WARNING" not in done.stderr
  return {path: Page(path) for path in folder.rglob("*.html")}


def test_every_page_is_built(site):
  built = {path.stem for path in site}
  docs = {p.stem for p in (commands.ROOT / "docs").rglob("*.md")}
  assert docs | {"contributing", "changelog", "scripts"} <= built


def test_every_link_and_file_of_the_site_is_there(site):
  broken = []
  for path, page in site.items():
    for link in page.links + page.loaded:
      url = urllib.parse.urlsplit(link)
      if url.scheme or url.netloc or path.name == "404.html":
        continue
      place = path.parent / urllib.parse.unquote(url.path) if url.path else path
      target = pathlib.Path(os.path.normpath(place))
      target = target / "index.html" if target.is_dir() else target
      known = site[target].ids if target in site else {"", url.fragment}
      if not target.is_file() or urllib.parse.unquote(url.fragment) not in known:
        broken.append(f"{path.name}: {link}")
  assert broken == []


def test_no_page_loads_anything_from_the_network(site):
  loaded = [link for page in site.values() for link in page.loaded]
  assert loaded and not [link for link in loaded if "//" in link]


def test_reference_pages_hold_what_the_code_says(site):
  text = {path.stem: path.read_text() for path in site}
  assert all(f'id="{name}"' in text["commands"] for name in cli.COMMANDS)
  assert "optim.accumulation" in text["config"]
  assert "conversation.Conversation.fork" in text["python"]
  assert "history_shuffled" in text["metrics"]


def test_a_page_that_nobody_listed_is_under_more(monkeypatch):
  path = commands.ROOT / "docs/site/hooks.py"
  spec = importlib.util.spec_from_file_location("site_hooks", path)
  hooks = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(hooks)
  monkeypatch.setattr(hooks, "MADE", {})
  names = [types.SimpleNamespace(src_uri=n) for n in ("new.md", "a.md", "b.md")]
  files = types.SimpleNamespace(documentation_pages=lambda: names)
  nav = [{"A": "a.md"}, {"Group": [{"B": "b.md"}]}, {"More": []}]
  hooks.on_files(files, types.SimpleNamespace(nav=nav))
  assert nav[-1] == {"More": ["new.md"]}
  hooks.on_files(types.SimpleNamespace(documentation_pages=lambda: names[1:]),
                 types.SimpleNamespace(nav=nav))  # fmt: skip
  assert nav == [{"A": "a.md"}, {"Group": [{"B": "b.md"}]}]
