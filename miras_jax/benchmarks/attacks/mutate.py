"""Random harm to bytes and to JSON documents; the same generator does the same harm."""

import copy
import json

NUMBERS = (
  0,
  1,
  -1,
  7,
  255,
  2**15,
  2**16 - 1,
  2**31 - 1,
  2**31,
  2**32 - 1,
  2**63,
  10**30,
)
VALUES = (
  None, True, False, "", " ", "0", "nan", "\ud800", "\0", "a" * 40_000, "é\u202e猫",
  "../../../etc/passwd", "/etc/passwd", "[SEG]", "[OBJ][SEG]" * 50, "<image>", "</s>",
  1.5, -1e308, float("nan"), float("inf"), [], {}, [[]], [None] * 300, {"a": {"a": {}}},
)  # fmt: skip


def harm_bytes(data, rng, times=3) -> bytes:
  """`data` with one to `times` changes."""
  for _ in range(rng.randint(1, times)):
    data = rng.choice(BYTES)(data or b"\0", rng)
  return data


def _flip(data, rng):
  at = rng.randrange(len(data))
  return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data, rng):
  return data[: rng.randrange(len(data))]


def _drop(data, rng):
  first, last = _span(data, rng)
  return data[:first] + data[last:]


def _repeat(data, rng):
  first, last = _span(data, rng)
  times = min(rng.choice((1, 1, 2, 10, 1000)), 2_000_000 // (last - first + 1))
  return data[:last] + data[first:last] * times + data[last:]


def _move(data, rng):
  first, last = _span(data, rng)
  rest = data[:first] + data[last:]
  at = rng.randrange(len(rest) + 1)
  return rest[:at] + data[first:last] + rest[at:]


def _number(data, rng):
  """Overwrites some bytes by a number that lengths and sizes trip over."""
  size = rng.choice((1, 2, 4, 8))
  number = rng.choice(NUMBERS) % 256**size
  at = rng.randrange(len(data))
  return (
    data[:at] + number.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]
  )


def _noise(data, rng):
  first, last = _span(data, rng, most=64)
  return data[:first] + rng.randbytes(last - first) + data[last:]


def _zeros(data, rng):
  at = rng.randrange(len(data) + 1)
  return data[:at] + bytes(rng.choice((1, 64, 4096))) + data[at:]


def _span(data, rng, most=None):
  first = rng.randrange(len(data))
  length = rng.choice((1, 4, 32, 512, len(data)))
  return first, min(len(data), first + min(length, most or length))


BYTES = (_flip, _flip, _number, _number, _cut, _drop, _repeat, _move, _noise, _zeros)


def harm_json(document, rng, times=3):
  """A copy of a JSON document with one to `times` changes."""
  document = copy.deepcopy(document)
  for _ in range(rng.randint(1, times)):
    document = _harm_node(document, rng)
  return document


def _harm_node(document, rng):
  places = list(_places(document))
  if not places:
    return value(rng)
  parent, key = rng.choice(places)
  action = rng.randrange(6)
  if action == 0:
    del parent[key]
  elif action == 1 and isinstance(parent, list):
    parent[key:key] = [parent[key]] * rng.choice((1, 2, 300))
  elif action == 2:
    parent[key] = [parent[key]]
  elif action == 3:
    other, name = rng.choice(places)
    if name in other if isinstance(other, dict) else name < len(other):
      parent[key] = copy.deepcopy(other[name])
  else:
    parent[key] = value(rng, parent[key])
  return document


def value(rng, before=None):
  if (
    isinstance(before, int | float)
    and not isinstance(before, bool)
    and rng.random() < 0.5
  ):
    return rng.choice((*NUMBERS, -before, before * 1000, before + 0.5))
  return copy.deepcopy(rng.choice(VALUES))


def _places(node):
  """(parent, key) of every value below `node`."""
  pairs = node.items() if isinstance(node, dict) else enumerate(node)
  for key, value in pairs:
    yield node, key
    if isinstance(value, dict | list):
      yield from _places(value)


def write_json(document, rng) -> bytes:
  """The document as text, in one of five cases harmed once more."""
  data = json.dumps(document).encode("utf-8", "surrogatepass")
  if rng.random() < 0.2:
    data = harm_bytes(data, rng, times=1)
  if rng.random() < 0.02:
    data = rng.choice((b"[", b'{"a":', b"1", b"\xff")) * rng.choice((1000, 100_000))
  return data
