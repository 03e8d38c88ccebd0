"""The house: which folder may import which, and how large its rooms may be."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("miras_jax", "input_pipeline", "configs")
# A folder imports only from those in the lines above it.
ORDER = (
  ("errors",),
  ("logs", "streams"),
  ("storage",),
  ("options",),
  ("drawing", "page_text"),
  ("input_pipeline",),
  ("llm",),
  ("parallel",),
  ("config",),
  ("configs",),
  ("models",),
  ("checkpoint",),
  ("convert",),
  ("planning",),
  ("training",),
  ("inference",),
  ("evaluation", "judge", "segment", "serving"),
  ("compare",),
  ("experiment",),
  ("data",),
  ("benchmarks",),
  ("scale",),
  ("launch",),
  ("parity",),
  ("cli",),
  ("miras_jax",),  # the package itself: what it exports
)
# A command that nothing imports may hand over to another one.
HANDS_OVER = {"miras_jax.checkpoint.command -> miras_jax.convert.command"}
FLOOR = {name: floor for floor, names in enumerate(ORDER) for name in names}
MAX_LINES = 400
MAX_ROOT_MODULES = 9
CONFIG = (".cff", ".toml", ".yaml", ".yml")


def modules():
  """{dotted name: path} of everything that is installed."""
  paths = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
  names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]
  return {
    name.removesuffix(".__init__"): p for name, p in zip(names, paths, strict=True)
  }


def imports(path, known):
  """Modules of ours that a file imports, also inside its functions."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in known)
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        module = inner if inner in known else node.module
      if module in known:
        yield module


def room(module):
  """ "miras_jax.models.llama" -> "models"; the other packages are rooms themselves."""
  first, *rest = module.split(".")
  return rest[0] if first == "miras_jax" and rest else first


MODULES = modules()
IMPORTS = {name: set(imports(path, MODULES)) for name, path in MODULES.items()}


def test_every_folder_has_its_place_in_the_order():
  assert {room(m) for m in MODULES} == FLOOR.keys()


def test_no_import_points_up():
  up = {
    f"{name} -> {target}"
    for name, targets in IMPORTS.items()
    for target in targets
    if room(target) != room(name) and FLOOR[room(target)] >= FLOOR[room(name)]
  }
  assert up == HANDS_OVER


def test_no_modules_import_each_other_in_a_circle():
  above = {name: set(targets) - {name} for name, targets in IMPORTS.items()}
  while free := {name for name, targets in above.items() if not targets}:
    above = {n: targets - free for n, targets in above.items() if n not in free}
  assert not above


def test_few_modules_stand_at_the_root():
  root = list((ROOT / "miras_jax").glob("*.py"))
  assert len(root) <= MAX_ROOT_MODULES


def test_nothing_else_lies_at_the_top():
  listed = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
  )
  if listed.returncode:
    pytest.skip("no git repository")
  top = {name.partition("/")[0] for name in listed.stdout.splitlines()}
  files = {name for name in top if (ROOT / name).is_file()}
  folders = {".ci", "configs", "docs", "input_pipeline", "launch", "miras_jax", "tests"}
  assert top - files == folders
  assert {pathlib.Path(name).suffix for name in files} <= {"", ".md", ".py", *CONFIG}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_file_is_too_long_to_read(folder):
  lines = {p: len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
  assert not {str(p): n for p, n in lines.items() if n > MAX_LINES}


def test_every_path_that_contributing_names_exists():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  named = re.findall(r"`([\w/]+(?:\.\w+|/))`", text)
  assert len(named) > 20
  missing = [name for name in named if not (ROOT / name).exists()]
  assert not missing
