"""A pickle of lists, dicts, texts and numbers, read as data; Python 2's too.

A pickle is a program. This one is not run: a small interpreter knows the opcodes that
plain values need. It looks up no name, so that there is nothing to call; every other
opcode is refused by name. Keys are texts or whole numbers: the hash of a nested tuple
can take for ever.
"""

import codecs
import pickletools
import struct

MAX_BYTES = 512 * 2**20
MAX_OPCODES = 60_000_000  # of two million sentences; each may cost a hundred bytes
_MAX_DIGITS = 40
_MARK = object()


def load(data: bytes, *, max_opcodes: int = MAX_OPCODES):
  """What the pickle describes. Raises ValueError with a reason.

  Byte strings of Python 2 become text: UTF-8 where they are that, else latin-1.
  """
  if len(data) > MAX_BYTES:
    raise ValueError(f"has {len(data):,} bytes, more than the limit {MAX_BYTES:,}")
  try:
    return Machine().run(data, max_opcodes)
  except Refused as refused:
    raise ValueError(str(refused)) from None


class Refused(Exception):
  """What a pickle asks for and does not get, or where it is damaged."""


class Machine:
  """The stack machine of a pickle. `steps` says what each opcode it knows does."""

  steps = {}  # set below, where the functions are
  name = "its pickle"  # in messages

  def __init__(self):
    self.data, self.at = b"", 0
    self.stack, self.memo = [], {}

  def run(self, data: bytes, max_opcodes: int = MAX_OPCODES):
    """What the pickle describes. Raises Refused."""
    self.data = data
    try:
      return self._run(max_opcodes)
    except (Refused, MemoryError):
      raise
    except Exception as error:  # a damaged one breaks this or that rule of the format
      reason = " ".join(str(error).split())[:60].encode("unicode_escape").decode()
      raise self.refusal(f"is damaged near byte {self.at}: {reason}") from None

  def refusal(self, reason: str) -> Refused:
    return Refused(f"{self.name} {reason}")

  def _run(self, max_opcodes):
    for _ in range(max_opcodes):
      if self.at >= len(self.data):
        raise self.refusal("ends early")
      code = self.data[self.at]
      self.at += 1
      if code == 0x2E:  # STOP
        return self.pop()
      step = self.steps.get(code)
      if step is None:
        raise self.refusal(f"holds the opcode {_name(code)}: refused")
      step(self)
    raise self.refusal(f"takes more than {max_opcodes:,} steps")

  def take(self, count):
    part = self.data[self.at : self.at + count]
    if len(part) < count:
      raise self.refusal("ends early")
    self.at += count
    return part

  def number(self, form):
    """A number in `struct`'s form, little-endian."""
    return struct.unpack(form, self.take(struct.calcsize(form)))[0]

  def line(self):
    end = self.data.index(b"\n", self.at)
    part, self.at = self.data[self.at : end], end + 1
    return part

  def push(self, value):
    self.stack.append(value)

  def pop(self):
    value = self.stack.pop()
    if value is _MARK:
      raise ValueError("a mark out of place")
    return value

  def to_mark(self):
    at = len(self.stack) - 1
    while self.stack[at] is not _MARK:
      at -= 1
      if at < 0:
        raise ValueError("no mark")
    items = self.stack[at + 1 :]
    del self.stack[at:]
    return items

  def last(self, numbers):
    items = [self.pop() for _ in range(numbers)]
    self.push(tuple(reversed(items)))

  def integer(self):
    """INT and LONG of protocol 0; I00 and I01 are False and True."""
    digits = self.line()
    if digits in (b"00", b"01"):
      return self.push(digits == b"01")
    if len(digits) > _MAX_DIGITS:
      raise self.refusal(f"holds a number of {len(digits):,} digits")
    self.push(int(digits.rstrip(b"L")))

  def quoted(self):
    """STRING: the repr of a Python 2 str."""
    text = self.line().strip()
    if len(text) < 2 or text[:1] not in b"'\"" or text[:1] != text[-1:]:
      raise ValueError("a string without quotes")
    self.push(_text(codecs.escape_decode(text[1:-1])[0]))

  def put(self, index):
    if not self.stack or self.stack[-1] is _MARK:
      raise ValueError("nothing to keep")
    self.memo[index] = self.stack[-1]

  def extend(self, items):
    self.container(list).extend(items)

  def set_items(self, items):
    target = self.container(dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
      if not isinstance(key, str | int):
        raise self.refusal(f"has a {type(key).__name__} as a key, want text")
      target[key] = value

  def container(self, kind):
    if not self.stack or type(self.stack[-1]) is not kind:
      raise ValueError(f"fills something that is no {kind.__name__}")
    return self.stack[-1]

  def new_dict(self):
    items = self.to_mark()
    self.push({})
    self.set_items(items)

  def set_one(self):
    value, key = self.pop(), self.pop()
    self.set_items([key, value])


def _text(data):
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError:
    return data.decode("latin-1")


def _name(code):
  known = (op.name for op in pickletools.opcodes if op.code == chr(code))
  return next(known, f"{code:#x}")


def _sized(form, decode):
  """The step of a text whose length comes first."""
  return lambda m: m.push(decode(m.take(m.number(form))))


def _unicode(data):
  return data.decode("utf-8", "surrogatepass")


def _signed(data):
  return int.from_bytes(data, "little", signed=True)


# fmt: off
Machine.steps = {ord(letter): step for letter, step in {
  "\x80": lambda m: m.take(1),              "\x95": lambda m: m.take(8),
  "(": lambda m: m.push(_MARK),             "0": lambda m: m.pop(),
  "N": lambda m: m.push(None),              "\x88": lambda m: m.push(True),
  "\x89": lambda m: m.push(False),          "I": Machine.integer,
  "L": Machine.integer,                    "J": lambda m: m.push(m.number("<i")),
  "K": lambda m: m.push(m.number("<B")),    "M": lambda m: m.push(m.number("<H")),
  "\x8a": _sized("<B", _signed),            "F": lambda m: m.push(float(m.line())),
  "G": lambda m: m.push(m.number(">d")),    "S": Machine.quoted,
  "T": _sized("<I", _text),                 "U": _sized("<B", _text),
  "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
  "X": _sized("<I", _unicode),              "\x8c": _sized("<B", _unicode),
  "\x8d": _sized("<Q", _unicode),           "C": _sized("<B", _text),
  "B": _sized("<I", _text),
  "]": lambda m: m.push([]),                "l": lambda m: m.push(m.to_mark()),
  "a": lambda m: m.extend([m.pop()]),     "e": lambda m: m.extend(m.to_mark()),
  "}": lambda m: m.push({}),                "d": Machine.new_dict,
  "s": Machine.set_one,                    "u": lambda m: m.set_items(m.to_mark()),
  ")": lambda m: m.push(()),                "t": lambda m: m.push(tuple(m.to_mark())),
  "\x85": lambda m: m.last(1),              "\x86": lambda m: m.last(2),
  "\x87": lambda m: m.last(3),
  "p": lambda m: m.put(int(m.line())),      "q": lambda m: m.put(m.number("<B")),
  "r": lambda m: m.put(m.number("<I")),     "\x94": lambda m: m.put(len(m.memo)),
  "g": lambda m: m.push(m.memo[int(m.line())]),
  "h": lambda m: m.push(m.memo[m.number("<B")]),
  "j": lambda m: m.push(m.memo[m.number("<I")]),
}.items()}
# fmt: on
