"""Pages that are notebooks too. `python -m tests.docs.notebooks` writes these anew."""

import json
import pathlib
import re

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
NAMES = ("inference", "evaluation")
PIECES = re.compile(r"```python\n(.*?)```\n", re.DOTALL)


def code(name) -> list[str]:
  """The Python pieces of a page, in order."""
  return PIECES.findall((DOCS / f"{name}.md").read_text())


def cells(name) -> list[tuple[str, str]]:
  """(kind, text) of the cells that the notebook of a page has."""
  pieces = PIECES.split((DOCS / f"{name}.md").read_text())
  kinds = ("markdown", "code")
  made = [(kinds[i % 2], piece.strip()) for i, piece in enumerate(pieces)]
  return [(kind, text) for kind, text in made if text]


def notebook(name) -> dict:
  """What the .ipynb of a page holds; cells are not executed."""
  made = []
  for i, (kind, text) in enumerate(cells(name)):
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    lines = text.splitlines(keepends=True)
    made.append(
      {"cell_type": kind, "id": f"{name}-{i}", "metadata": {}} | more
      | {"source": lines}
    )  # fmt: skip
  kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
  about = {"kernelspec": kernel, "language_info": {"name": "python"}}
  return {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def write(name):
  text = json.dumps(notebook(name), indent=1, ensure_ascii=False) + "\n"
  (DOCS / f"{name}.ipynb").write_text(text)


if __name__ == "__main__":
  for page in NAMES:
    write(page)
