"""Lists of class names: JSON, text, YOLO's YAML, Roboflow's CSV -> {number: name}."""

import collections
import os

import yaml

from input_pipeline import safe_files
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN
from miras_jax.errors import UserError

MAX_BYTES = 1 << 20
MAX_NAMES = 65_536  # what 16 bits can tell apart
MAX_LENGTH = 200
# What tools call pixels that belong to nothing.
NOT_A_THING = frozenset(
  ["", "background", "_background_", "__background__", "bg", "unlabelled", "unlabeled"]
  + ["null", "none", "void", "ignore", "__ignore__"]
)
FILES = (
  "labels.json",
  "classes.json",
  "names.json",
  "classes.txt",
  "labels.txt",
  "class_names.txt",
  "names.txt",
  "obj.names",
  "_classes.csv",
  "train/_classes.csv",
)


def is_thing(name: str) -> bool:
  return name.strip().casefold() not in NOT_A_THING


def check(name) -> str:
  """A label as a name in a sentence. Raises ValueError for one that cannot be one."""
  if not isinstance(name, str) or not name.strip():
    raise ValueError(f"label {str(name)[:40]!r} is no name")
  if len(name) > MAX_LENGTH:
    raise ValueError(f"label of {len(name):,} characters, the limit is {MAX_LENGTH}")
  if SEG_TOKEN in name or OBJ_TOKEN in name:
    raise ValueError(f"label {name!r} holds a control token")
  if not name.isprintable():
    raise ValueError(f"label {name!r} holds a character that cannot be printed")
  return name.strip()


def from_path(path) -> dict[int, str]:
  """The names of a file that the user names. Raises UserError."""
  try:
    return parse(safe_files.read_bytes(path, MAX_BYTES), str(path))
  except FileNotFoundError:
    raise UserError(f"--names={path}: no such file") from None
  except ValueError as error:
    raise UserError(f"--names={path}: {error}") from None


def in_folder(src: SourceFolder) -> dict[int, str] | None:
  """The names that lie at the root, None where there is no such list."""
  name = src.first(*FILES)
  if name is None:
    return None
  try:
    return parse(src.read(name, MAX_BYTES), name)
  except ValueError as error:
    raise UserError(
      f"--src={src.root}: {name}: {error}; name a list with --names=FILE"
    ) from None


def parse(data: bytes, file: str) -> dict[int, str]:
  """Content of a list of names -> {number: name}. Raises ValueError with a reason."""
  suffix = os.path.splitext(file)[1].lower()
  if suffix == ".json":
    names = numbered(safe_files.parse_json(data)[0])
  elif suffix in (".yaml", ".yml"):
    names = numbered(load_yaml(data).get("names"))
  elif suffix == ".csv":
    names = _from_rows(_text(data).splitlines()[1:])
  else:
    names = _from_lines(_text(data))
  if not any(is_thing(name) for name in names.values()):
    raise ValueError("holds no name")
  counts = collections.Counter(filter(is_thing, names.values()))
  if twice := [name for name, count in counts.items() if count > 1]:
    raise ValueError(f"gives the name {twice[0]!r} to two classes")
  return names


def numbered(value) -> dict[int, str]:
  """Names as JSON or YAML hold them: a list of texts or of {id, name}, {number: name}
  or {name: number}. Raises ValueError."""
  if isinstance(value, dict):
    pairs = [_pair(key, name) for key, name in value.items()]
  elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
    pairs = [(item.get("id"), item.get("name")) for item in value]
  elif isinstance(value, list):
    pairs = list(enumerate(value))
  else:
    raise ValueError(f"holds a {type(value).__name__}, want a list of names")
  return _checked(pairs)


def _pair(key, value):
  key, value = (value, key) if isinstance(value, int) else (key, value)
  if isinstance(key, str) and key.strip().isdecimal() and len(key) < 10:
    key = int(key)
  return key, value


def _from_lines(text):
  lines = [line.strip() for line in text.rstrip().splitlines()]
  if lines[:1] == ["__ignore__"]:  # labelme's own lists begin with it: number -1
    lines = lines[1:]
  return _checked(enumerate(lines))


def _from_rows(lines):
  rows = [line.split(",", 1) for line in lines if line.strip()]
  if not all(len(row) == 2 for row in rows):
    raise ValueError("wants rows `number, name`")
  return _checked(_pair(number, name.strip()) for number, name in rows)


def _checked(pairs):
  names = {}
  for number, name in pairs:
    if isinstance(number, bool) or not isinstance(number, int):
      raise ValueError(f"number {str(number)[:40]!r} of a name is no whole number")
    if not 0 <= number < MAX_NAMES or number in names:
      raise ValueError(f"number {number} of a name is given twice or out of range")
    names[number] = check(name) if name not in (None, "") else ""
  return names


def load_yaml(data: bytes) -> dict:
  """A small YAML file that holds a mapping. Raises ValueError with a reason."""
  if len(data) > MAX_BYTES:
    raise ValueError(f"has {len(data):,} bytes, more than the limit {MAX_BYTES:,}")
  text = _text(data)
  try:
    # An alias is how a short text becomes an endless one; no list of names has any.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
      raise ValueError("holds YAML aliases (*name), want plain values")
    value = yaml.safe_load(text)
  except (yaml.YAMLError, RecursionError) as error:
    reason = " ".join(str(error).split())[:120]
    raise ValueError(f"is not valid YAML: {reason}") from None
  if not isinstance(value, dict):
    raise ValueError("is no YAML mapping, want keys such as names, train, val")
  return value


def _text(data):
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
