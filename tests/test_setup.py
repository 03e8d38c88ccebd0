"""setup.py declares what is imported, and nothing else."""

import ast
import pathlib
import re
import runpy
import sys
from importlib import metadata

import pytest
import setuptools

from miras_jax import options

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = {"miras_jax", "input_pipeline", "configs", "tests"}
# Declared without an import of ours, each for the reason that setup.py gives.
ONLY_DECLARED = {"tensorflow-datasets", "jinja2"}
# Packages that many distributions put modules into: the one that ours come from.
SHARED = {"google": "google-cloud-storage"}
# The other side of a comparison: whoever runs it brings it (`import_torch_side`).
ONLY_COMPARED = {"torch"}


@pytest.fixture(scope="module")
def declared():
  """{name of the extra, "" for the package itself: names of its distributions}."""
  given = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
  groups = {"": given["install_requires"]} | given["extras_require"]
  return {extra: {name_of(r) for r in rows} for extra, rows in groups.items()}


def name_of(requirement):
  return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported():
  """Distributions that the package imports."""
  found = set()
  for package in ("miras_jax", "input_pipeline", "configs"):
    for path in (ROOT / package).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
          found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
          found.add(node.module.split(".")[0])
  outside = found - OURS - sys.stdlib_module_names
  dists = metadata.packages_distributions()
  found = {module: dists.get(module, [module])[0] for module in outside}
  return {name_of(SHARED.get(module, dist)) for module, dist in found.items()}


def test_every_import_is_declared(declared):
  named = ("eval", "meteor", "scale", "serve", "llm", "gcs")
  extras = set().union(*(declared[name] for name in named))
  known = declared[""] | extras | ONLY_COMPARED
  assert imported() - known == set()


def test_every_declaration_is_imported(declared):
  assert declared[""] - ONLY_DECLARED - imported() == set()


def test_an_extra_that_a_message_names_brings_the_module(declared):
  dists = metadata.packages_distributions()
  for module, extra in options.EXTRAS.items():
    assert name_of(dists[module][0]) in declared[extra]
