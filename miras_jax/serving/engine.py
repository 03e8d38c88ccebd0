"""Continuous batching: a fixed set of rows on the device, one thread that uses them.

A conversation keeps its row until another needs it; what was read of it is then read
again at its next question. New questions enter between two chunks of the answers that
are under way, a long one in parts, so that no answer waits for all of it; questions are
taken in the order in which they came.
"""

import collections
import concurrent.futures
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from miras_jax.inference import hints as hints_lib
from miras_jax.inference import memory
from miras_jax.inference.conversation import Prompt, read_answers, reply_of
from miras_jax.inference.sampling import Sampling
from miras_jax.logs import log
from miras_jax.serving.refusals import Busy, Failed, Late
from miras_jax.serving.talks import Talk

GREEDY = (0.0, 1.0, 0)


@dataclasses.dataclass(eq=False)
class Question:
  """A prompt on its way. `tell(kind, value)` is called from other threads: "text" with
  the answer so far when `streams`, then once "reply" (Reply) or "error" (Refusal)."""

  talk: Talk
  prompt: Prompt
  tell: Callable[[str, Any], None]
  deadline: float  # time.monotonic()
  hints: dict | None = None
  slots: dict | None = None  # earlier masks (inference/memory.py)
  given: memory.Slot | None = None  # the user's own of them
  choice: tuple = GREEDY  # temperature, top_p, seed
  streams: bool = False
  cancelled: bool = False
  shown: int = 0  # tokens
  asked_at: float = dataclasses.field(default_factory=time.monotonic)
  begun_at: float = 0.0  # when it had a row


@dataclasses.dataclass
class Row:
  """A row of the session: whose conversation it holds, what it is answering."""

  talk: Talk | None = None
  question: Question | None = None
  used: int = 0


class Engine:
  """Answers questions. `start` before, `close` after."""

  def __init__(self, loaded, generator, settings, metrics):
    self._loaded, self.generator = loaded, generator
    self._settings, self._metrics = settings, metrics
    self._rows = [Row() for _ in range(settings.slots)]
    self._waiting = collections.deque()
    self._changed = threading.Condition()
    self.session, self._closed, self._clock = None, False, 0
    self._mean_seconds = 1.0
    self._pool = concurrent.futures.ThreadPoolExecutor(2, "masks")
    self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

  def start(self):
    self._thread.start()

  def close(self):
    """Ends the thread; what was not answered is refused."""
    with self._changed:
      self._closed = True
      self._changed.notify()
    if self._thread.is_alive():
      self._thread.join()
    self._pool.shutdown()

  @property
  def waiting(self) -> int:
    return len(self._waiting)

  @property
  def answering(self) -> int:
    return sum(row.question is not None for row in self._rows)

  def submit(self, question: Question):
    """Raises Busy when the queue is full."""
    with self._changed:
      if len(self._waiting) >= self._settings.queue:
        turns = len(self._waiting) / self._settings.slots
        raise Busy(max(1, min(600, math.ceil(turns * self._mean_seconds))))
      self._waiting.append(question)
      self._changed.notify()

  def cancel(self, question: Question):
    """Nobody waits for it any more."""
    question.cancelled = True
    with self._changed:
      self._changed.notify()

  def holds(self, talk: Talk) -> bool:
    """Whether the device has its image."""
    return any(row.talk is talk for row in self._rows)

  def forget(self, talk: Talk):
    """Its row is the first to be given away."""
    for row in self._rows:
      if row.talk is talk and row.question is None:
        row.used = 0

  def warm(self):
    """Compiles what answers need, with a black image and every length of what is read
    at a time: at the beginning of a conversation and later."""
    data = self._loaded.data
    one = self.generator.encode(_black(data))
    session = self.session = self._new_session(one)
    greedy = Sampling.of([GREEDY] * len(self._rows))
    ids = self._loaded.tokenizer.ids
    widths = session.buckets(self._settings.read)
    for width in widths:
      for start in (0, 1):
        length = min(start + width, data.max_len)
        tokens = np.full(length, ids.pad, np.int32)
        prompt = Prompt(tokens, np.full(length, -1, np.int32))
        session.put(0, one)
        session.begin([prompt, *[None] * (len(self._rows) - 1)])
        if start:
          session.read_on(1)
        session.read_on(length)
    session.go_on(1, greedy)
    session.stop(0)
    for hints, slots in _every_hint(self._loaded):
      session.show(0, slots)
      session.answer(0, hints, slots)
    session.put(0, one)

  def _new_session(self, one):
    most = self._loaded.data.max_len
    return self.generator.empty_session(one, len(self._rows), most)

  def _run(self):
    while not self._closed:
      try:
        self._drop_late()
        if admitted := self._admit():
          self._begin(admitted)
        if self.answering:
          self.session.read_on(self._settings.read)
          self._go_on()
        else:
          self._wait()
      except Exception:  # the device's: whoever waits must hear of it, others go on
        log.exception("an answer failed")
        self._fail_all(Failed("the model failed on this; the server's log says why"))
    self._fail_all(Failed("the server is stopping"), also_waiting=True)

  def _wait(self):
    with self._changed:
      if not self._waiting and not self._closed:
        self._changed.wait()

  def _drop_late(self):
    now = time.monotonic()
    with self._changed:
      late = [q for q in self._waiting if q.cancelled or q.deadline < now]
      for question in late:
        self._waiting.remove(question)
    for b, row in enumerate(self._rows):
      question = row.question
      if question and (question.cancelled or question.deadline < now):
        self.session.stop(b)
        row.question = None
        late.append(question)
    for question in late:
      self._refuse(question, Late(f"no answer within {self._settings.timeout:g} s"))

  def _admit(self) -> list[int]:
    """Gives rows to waiting questions, first come first served; returns the rows."""
    admitted = []
    with self._changed:
      owners = {id(question.talk) for question in self._waiting}
      while self._waiting:
        b = self._row_for(self._waiting[0].talk, owners)
        if b is None:
          break
        question = self._waiting.popleft()
        self._clock += 1
        self._rows[b].question, self._rows[b].used = question, self._clock
        question.begun_at = time.monotonic()
        admitted.append(b)
    return admitted

  def _row_for(self, talk, owners):
    """The row that holds `talk`, else the idle one that will be missed least."""
    for b, row in enumerate(self._rows):
      if row.talk is talk:
        return b if row.question is None else None
    idle = [b for b, row in enumerate(self._rows) if row.question is None]

    def missed(b):
      return id(self._rows[b].talk) in owners, self._rows[b].used

    return min(idle, key=missed, default=None)

  def _begin(self, admitted):
    prompts = [None] * len(self._rows)
    for b in admitted:
      row = self._rows[b]
      question = row.question
      if row.talk is not question.talk:
        self._encode(b, question.talk)
      self.session.show(b, question.slots)
      prompts[b] = question.prompt
    self.session.begin(prompts)

  def _encode(self, b, talk):
    """Puts the image of `talk` where another conversation was."""
    row = self._rows[b]
    one = self.generator.encode({k: v[None] for k, v in talk.views().items()})
    if self.session is None:
      self.session = self._new_session(one)
    self.session.put(b, one)
    talk.drop_views()
    row.talk = talk
    self._metrics.images.inc()

  def _go_on(self):
    choices = [row.question.choice if row.question else GREEDY for row in self._rows]
    self.session.go_on(self._settings.chunk, Sampling.of(choices))
    most = self.session.max_new_tokens
    for b, (tokens, ended) in enumerate(self.session.progress()):
      question = self._rows[b].question
      if question is None or self.session.is_reading(b):
        continue
      if not question.shown:
        self._metrics.first_token.observe(time.monotonic() - question.asked_at)
      self._metrics.tokens.inc(len(tokens) - question.shown)
      question.shown = len(tokens)
      if question.streams:
        text = self._loaded.tokenizer.decode(tokens[: len(tokens) - ended])
        question.tell("text", text.strip())
      if ended or len(tokens) >= most:
        self._finish(b, question)

  def _finish(self, b, question):
    out = self.session.answer(b, question.hints, question.slots)
    answer = read_answers(out, self._loaded.tokenizer)[0]
    self._rows[b].question = None
    seconds = time.monotonic() - question.begun_at
    self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
    self._pool.submit(self._complete, question, answer)  # the device need not wait

  def _complete(self, question, answer):
    try:
      talk, dropped = question.talk, question.prompt.dropped_rounds
      turn, data = len(talk.turns), self._loaded.data
      reply = reply_of(answer, talk.sizes, data, dropped, turn)
      question.tell("reply", reply)
    except Exception:
      log.exception("the masks of an answer failed")
      self._refuse(question, Failed("the masks of this answer could not be made"))

  def _refuse(self, question, refusal):
    question.tell("error", refusal)

  def _fail_all(self, refusal, also_waiting=False):
    """Gives up what is under way; the device's state may be lost: all is read anew."""
    questions = [row.question for row in self._rows if row.question]
    self._rows = [Row() for _ in self._rows]
    self.session = None
    with self._changed:
      if also_waiting:
        questions += self._waiting
        self._waiting.clear()
    for question in questions:
      self._refuse(question, refusal)


def _black(data):
  sam, aux = data.sam_size, data.aux_size
  return {
    "image_sam": np.zeros((1, sam, sam, 3), np.uint8),
    "image_aux": np.zeros((1, aux, aux, 3), np.uint8),
    "valid_hw": np.full((1, 2), sam, np.int32),
    "original_hw": np.full((1, 2), sam, np.int32),
  }


def _every_hint(loaded):
  """Each combination of what a user may point at compiles a program of its own."""
  data, side = loaded.data, loaded.data.sam_size
  in_slots = memory.has_state(data) and loaded.model.cfg.has_dense_state
  views = {"original_hw": np.array([side, side])}
  mask = np.ones((side, side), bool)
  for points in ((), [(0, 0, True)]):
    for box in (None, (0, 0, side, side)):
      for given in (None, mask):
        looks = given is not None and memory.has_state(data)
        earlier = (memory.of_mask(given, data),) if looks else ()
        meant = None if in_slots else given
        hints = hints_lib.make(points, box, meant, views, data)
        yield hints, memory.stack([earlier], data)
