"""The loop of `miras chat`: lines in, answers on the screen, masks as PNG."""

import os
import re
import sys

from input_pipeline import image_ops
from input_pipeline.conversation import ConversationError
from miras_jax import drawing, streams
from miras_jax.errors import UserError
from miras_jax.inference import conversation, ctrl_c, mask_file
from miras_jax.inference.predictor import read_image
from miras_jax.storage import copies, reach

COMMANDS = "/reset, /image FILE, /mask FILE, /help or /quit"
# How a user names an earlier mask.
OBJECT = re.compile(r"\bobject\s+([0-9]{1,9})\b", re.IGNORECASE)
REFERENCE = re.compile(r"\[REF:([^\]]{0,40}\]?)", re.IGNORECASE)
MAX_LINE = 1 << 20  # characters; no model takes so many
TURN = re.compile(r"turn_(\d{1,9})_")  # of a file's name
CHUNK = 4  # tokens between two looks whether to stop
HELP = """\
/reset       forget the turns, keep the image
/image FILE  go on with another image, without the turns
/mask FILE   take a mask as an earlier one: PNG, labelme's JSON, COCO annotation or RLE
             (a question names an earlier mask as "object 2" or [REF:2])
/help        show this list
/quit        leave; so does the end of the input"""


class EndOfScript(UserError):
  """What a script cannot go on after."""


class Chat:
  """The dialogue loop. `turn` counts answers for the file names, from those of earlier
  chats in `out` on, and never restarts, so that no mask overwrites another.

  A script, input that is no terminal, ends where its image cannot be opened: the
  questions after it would be about another one. Its exit status tells of other lines
  that were refused.
  """

  def __init__(self, loaded, generator, path, image, out):
    self._loaded, self._generator, self._out = loaded, generator, out
    self._turn, self._refused = last_turn(out), 0
    self._open(path, image)

  def run(self, lines):
    """Answers each line of `lines` until /quit or their end; returns the exit status:
    1 for a script with a line that was refused.

    Raises UserError where a script names an image that cannot be opened.
    """
    self._prompts = lines.isatty()
    if self._prompts:
      print(f"Ask about {self._path}, or type {COMMANDS}.")
    if self._turn:
      print(
        f"{self._out} has masks of an earlier chat; these begin at {self._stem(1)}."
      )
    for line in self._read(lines):
      text = line.strip()
      if text == "/quit":
        break
      if text:
        self._answer_line(text)
    if self._refused and not self._prompts:
      count = f"{self._refused} line" + "s" * (self._refused > 1)
      print(f"error: {count} of the script could not be done", file=sys.stderr)
      return 1
    return 0

  def _read(self, lines):
    """Lines of the input; on a terminal with a prompt and line editing."""
    if not self._prompts:
      while line := lines.readline(MAX_LINE):
        if len(line) == MAX_LINE:
          raise UserError(f"a line of {MAX_LINE:,} characters or more; is this a text?")
        yield line
      return
    import readline  # noqa: F401  makes input() editable

    while True:
      try:
        yield input("you> ")
      except EOFError:
        print()
        return
      except KeyboardInterrupt:  # as a shell: what was typed is dropped
        print("\n(/quit leaves, so does Ctrl-D)")
      except UnicodeDecodeError:
        yield "\udcff"  # see streams.is_text

  def _answer_line(self, text):
    try:
      if not streams.is_text(text):
        raise UserError(f"this line is not valid UTF-8: {text[:80]}")
      if text.startswith("/"):
        self._command(*text.split(maxsplit=1))
      else:
        self._ask(text)
    except EndOfScript:
      raise
    except (UserError, ConversationError) as error:
      self._refused += 1
      print(f"error: {printable(error)}", file=sys.stderr)

  def _command(self, name, argument=""):
    if name == "/reset":
      self._conversation.reset()
      self._told = 0
      print("The conversation starts anew.")
    elif name == "/image" and argument:
      self._go_on_about(argument)
    elif name == "/mask" and argument:
      self._take_mask(argument)
    elif name == "/help":
      print(HELP)
    elif name in ("/image", "/mask"):
      raise UserError(f"{name} wants a file: {name} FILE")
    else:
      raise UserError(f"no command {name!r}; there are {COMMANDS}")

  def _take_mask(self, path):
    self._conversation.require_state()
    given = mask_file.read(path, self._conversation.size)
    number = self._conversation.remember(given.mask_HW)
    what = printable(path)
    if len(given.labels) > 1:
      what += f", all of {', '.join(map(printable, given.labels))},"
    share = f"{given.mask_HW.mean():.1%} of the image"
    print(f"{what} is object {number + 1} ({share}).")
    self._tell_unseen(0)

  def _go_on_about(self, path):
    try:
      self._open(path, read_image(path))
    except UserError as error:
      if self._prompts:
        raise
      raise EndOfScript(f"{error}; the script ends here") from error
    print(f"Now about {printable(path)}.")

  def _open(self, path, image):
    self._conversation = conversation.Conversation(self._loaded, self._generator, image)
    self._told = 0
    self._path, self._image_HWC = path, image_ops.decode_image(image)

  def _ask(self, text):
    if not self._prompts:
      print(f"you> {printable(text)}")
    reply = self._reply(text, self._named(text))
    self._turn += 1
    print(f"miras> {printable(reply.text)}")
    if reply.dropped_rounds:
      print(f"  ({_rounds(reply.dropped_rounds)})")
    if reply.num_seg > len(reply.masks):
      print(f"  ({reply.num_seg} [SEG]; only {len(reply.masks)} get a mask)")
    self._tell_unseen(reply.dropped_rounds)
    if reply.masks:
      self._write([mask.array for mask in reply.masks])
    sys.stdout.flush()

  def _named(self, text):
    """Number of the earlier mask that a text names. UserError where there is none."""
    talk = self._conversation
    if not talk.has_state:
      if found := REFERENCE.search(text) or OBJECT.search(text):
        said = printable(found[0])
        print(f'  (this model looks at no earlier masks: "{said}" is read as words)')
      return None
    numbers = objects_of(text)
    for number in numbers:
      if not 0 <= number < len(talk.earlier):
        there = _objects(len(talk.earlier)) if talk.earlier else "none yet"
        raise UserError(f"object {number + 1}: the masks so far are {there}")
    if len(numbers) > 1:
      print("  (several objects are named: none of them is picked)")
    if len(numbers) != 1:
      return None
    print(f"  (about object {numbers[0] + 1})")
    return numbers[0]

  def _tell_unseen(self, dropped_rounds):
    unseen, told = self._unseen(dropped_rounds), self._told
    self._told = max(unseen, told)
    if unseen > told:
      print(f"  (no longer seen: {_objects(unseen)}; name one, and it is)")

  def _unseen(self, dropped_rounds):
    """How many of the oldest masks later turns do not see: those without a slot and,
    where only the language model looks, those of rounds that do not fit."""
    talk = self._conversation
    if not talk.has_state:
      return 0
    unread = sum(mask.slot.before < dropped_rounds for mask in talk.earlier)
    without = max(0, len(talk.earlier) - self._loaded.data.slots)
    dense = self._loaded.model.cfg.has_dense_state
    return without if dense else max(without, unread)

  def _reply(self, text, refers_to):
    """The answer. Ctrl-C gives it up: at a terminal the conversation goes on."""
    talk, before = self._conversation, len(self._conversation.replies)
    with ctrl_c.Noted() as stop:
      for _ in talk.stream(text, refers_to=refers_to, chunk=CHUNK):
        if stop.asked:
          break
    if stop.asked and not self._prompts:
      raise KeyboardInterrupt
    if len(talk.replies) == before:
      raise UserError("stopped; this question and its answer are forgotten")
    return talk.replies[-1]

  def _stem(self, ahead=0):
    return f"turn_{self._turn + ahead:02d}"

  def _claim(self):
    """The stem of an answer's files, also beside a chat that writes there now."""
    self._out.mkdir(parents=True, exist_ok=True)
    while True:
      try:
        (self._out / f"{self._stem()}_overlay.png").touch(exist_ok=False)
        return self._stem()
      except FileExistsError:
        self._turn += 1

  def _write(self, masks_KHW):
    lines, first = [], len(self._conversation.earlier) - len(masks_KHW)
    try:
      stem = self._claim()
      for k, mask_HW in enumerate(masks_KHW, 1):
        path = self._out / f"{stem}_mask_{k}.png"
        drawing.save_mask(path, mask_HW)
        name = f", object {first + k}" if self._conversation.has_state else ""
        lines.append(f"  mask: {path} ({mask_HW.mean():.1%} of the image{name})")
      path = self._out / f"{stem}_overlay.png"
      drawing.save_overlay(path, self._image_HWC, masks_KHW)
      lines.append(f"  overlay: {path}")
    except OSError as error:
      raise UserError(f"{self._out}: cannot be written: {error.strerror}") from error
    finally:
      for line in lines:
        print(line)


def last_turn(out) -> int:
  """The highest number in the names of an earlier chat's files, 0 where there is none;
  of an output that goes to a bucket, also of what is there.

  Raises UserError where `out` cannot be a folder.
  """
  place = copies.place_of(out)
  names = reach.names(place) if place else []
  try:
    names += os.listdir(out)
  except FileNotFoundError:
    pass
  except OSError as error:
    raise UserError(f"--out={out}: cannot be used: {error.strerror}") from None
  return max((int(found[1]) for found in map(TURN.match, names) if found), default=0)


def objects_of(text) -> list[int]:
  """The numbers, from 0, of what "object 2" and "[REF:2]" name in a text.

  Raises UserError for a reference that holds no number.
  """
  numbers = set(map(int, OBJECT.findall(text)))
  for inside in REFERENCE.findall(text):
    if not re.fullmatch(r"\s*-?[0-9]{1,9}\s*\]", inside):
      raise UserError(f"[REF:{printable(inside)}: want the number of a mask, [REF:2]")
    numbers.add(int(inside[:-1]))
  return sorted(number - 1 for number in numbers)


def _objects(count):
  return "object 1" if count == 1 else f"objects 1 to {count}"


def _rounds(count):
  if count == 1:
    return "the oldest round no longer fits"
  return f"the oldest {count} rounds no longer fit"


def printable(text):
  """One line without control characters, which could drive the terminal."""
  return "".join(c if c.isprintable() else " " for c in str(text))
