"""What MkDocs is told beyond mkdocs.yml: pages that are made, pages nobody listed.

* CHANGELOG.md, CONTRIBUTING.md and launch/README.md become pages.
* Pages of docs/ that `nav` does not name are appended to its entry "More".
* In pages of reference/ `<!-- command NAME -->` is replaced by the help of `miras
  NAME`, `<!-- fields -->`, `<!-- metrics -->`, `<!-- controls -->` by tables of these.
"""

import ast
import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
MADE = {
  "contributing.md": "CONTRIBUTING.md",
  "changelog.md": "CHANGELOG.md",
  "scripts.md": "launch/README.md",
}
MARK = re.compile(r"<!-- (command|fields|metrics|controls) ?(\w*) -->")


def on_files(files, config):
  for page, source in MADE.items():
    text = (ROOT / source).read_text(encoding="utf-8")
    files.append(File.generated(config, page, content=text))
  more = next(entry for entry in config.nav if "More" in entry)
  listed = set(_pages(config.nav))
  found = sorted(f.src_uri for f in files.documentation_pages())
  more["More"] = [page for page in found if page not in listed]
  if not more["More"]:
    config.nav.remove(more)
  return files


def on_page_markdown(markdown, **_):
  return MARK.sub(lambda match: TABLES[match[1]](match[2]), markdown)


def _pages(nav):
  """Every page that a list of entries names."""
  for entry in nav:
    for target in entry.values() if isinstance(entry, dict) else [entry]:
      if isinstance(target, list):
        yield from _pages(target)
      else:
        yield target


def command(name) -> str:
  """The docstring of a command, which is its help, as a block of code."""
  from miras_jax import cli

  folder, line, _ = cli.COMMANDS[name]
  path = ROOT / "miras_jax" / folder / "command.py"
  text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
  return f"`miras {name}`: {line}.\n\n````text\n{text}\n````"


def fields(_) -> str:
  """A table of the fields that `--config.a.b=value` changes."""
  from miras_jax.config import file, run

  rows = ["| field | default | meaning |", "| --- | --- | --- |"]
  for one in run.settings():
    name = ".".join(filter(None, (one.option, file.FREE.get(one.option))))
    default = "" if one.default in (None, "", {}) else f"`{one.default}`"
    choices = f" ({', '.join(one.choices)})" if one.choices else ""
    text = f"{one.help}{choices}".replace("|", "\\|").replace("<", "&lt;")
    rows.append(f"| `{name}` | {default} | {text} |")
  return "\n".join(rows)


def metrics(_) -> str:
  from miras_jax.evaluation.report import wording

  return _meanings("metric", wording.MEANING)


def controls(_) -> str:
  from miras_jax.evaluation.report import wording

  return _meanings("control", wording.CONTROLS)


def _meanings(kind, table):
  rows = [f"| `{name}` | {text} |" for name, text in table.items()]
  return "\n".join([f"| {kind} | meaning |", "| --- | --- |", *rows])


TABLES = {
  "command": command,
  "fields": fields,
  "metrics": metrics,
  "controls": controls,
}
