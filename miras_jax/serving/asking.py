"""From a message to an answer: what every door of the server shares."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import anyio
from starlette.concurrency import run_in_threadpool

from input_pipeline.slots import fill
from miras_jax.inference import hints as hints_lib
from miras_jax.inference import memory
from miras_jax.inference.conversation import prompt_of
from miras_jax.serving import inputs
from miras_jax.serving.engine import Engine, Question
from miras_jax.serving.messages import Say
from miras_jax.serving.metrics import Metrics
from miras_jax.serving.refusals import Late, Refusal, TooLarge
from miras_jax.serving.settings import Settings
from miras_jax.serving.talks import KeptMask, Store, Talk, Turn, unpacked

DECODERS = 4  # pictures that are decoded at a time: each may take 300 MB


class Service(NamedTuple):
  """What the doors use. name: of the model, for clients that list models."""

  loaded: Any
  engine: Engine
  store: Store
  settings: Settings
  metrics: Metrics
  decoders: anyio.CapacityLimiter
  name: str = "miras"

  @classmethod
  def of(cls, loaded, settings: Settings, name="miras") -> "Service":
    """With an engine that is not started."""
    metrics = Metrics()
    generator = loaded.generator(settings.max_new_tokens)
    engine = Engine(loaded, generator, settings, metrics)
    store = Store(settings.conversations, settings.memory_mb * 2**20, engine.forget)
    metrics.watch(engine, store)
    decoders = anyio.CapacityLimiter(DECODERS)
    return cls(loaded, engine, store, settings, metrics, decoders, name)

  async def new_talk(self, image: bytes, name: str | None = None) -> Talk:
    """A conversation that is not in the store. Raises ImageError, TooLarge."""
    if len(image) > self.settings.upload_bytes:
      raise TooLarge(f"image: more than {self.settings.upload_mb} MB")

    def make():
      limit = self.settings.max_pixels
      return Talk(image, inputs.name_of(name), self.loaded.data, max_pixels=limit)

    return await self.decode(make)

  async def decode(self, work, *args):
    """`work(*args)` in a thread, a few of them at a time."""
    return await anyio.to_thread.run_sync(work, *args, limiter=self.decoders)


async def answer(service: Service, talk: Talk, say: Say, left=None) -> Turn:
  """The turn, remembered in `talk`. Raises UserError, Refusal.

  left: coroutine function, whether nobody waits for the answer any more.
  """
  async with contextlib.aclosing(events(service, talk, say)) as told:
    async for kind, value in told:
      if kind == "turn":
        return value
      if kind == "wait" and left is not None and await left():
        break
  raise Late("nobody waits for this answer any more")


async def events(service: Service, talk: Talk, say: Say) -> AsyncIterator[tuple]:
  """("asked", None) when the question is accepted; ("text", the answer so far) when
  `say.stream`; ("wait", None) while nothing happens; at last ("turn", Turn). Who stops
  listening cancels the question: nothing of it is remembered.

  Raises UserError, Refusal.
  """
  talk.begin()
  question = None
  try:
    told, loop = asyncio.Queue(), asyncio.get_running_loop()

    def tell(*event):
      with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(told.put_nowait, event)

    question = await service.decode(_question, service, talk, say, tell)
    service.engine.submit(question)
    yield "asked", None
    async for kind, value in _heard(told):
      if kind == "reply":
        value = await run_in_threadpool(_remember, talk, say, value, question)
        kind, question = "turn", None
        service.store.shrink()
      yield kind, value
  finally:
    if question is not None:
      service.engine.cancel(question)
    talk.end()


async def _heard(told, patience=1.0):
  kind = None
  while kind != "reply":
    try:
      kind, value = await asyncio.wait_for(told.get(), patience)
    except TimeoutError:
      kind, value = "wait", None
    if kind == "error":
      raise value
    yield kind, value


def _question(service, talk, say, tell) -> Question:
  """Raises UserError for what makes no sense."""
  settings, data = service.settings, service.loaded.data
  text = inputs.check_text(say.text, settings.max_text)
  if len(talk.turns) >= settings.max_turns:
    raise Refusal(f"{settings.max_turns} turns are the limit; undo, or start anew")
  mask = say.mask
  if mask is not None:
    given = mask if isinstance(mask, str) else mask.model_dump()
    mask = inputs.mask_of(given, talk.size)
  hints, slots, shown, given = _pointed(say, mask, talk, service.loaded)
  asked = [*talk.said, ("user", text)]
  prompt = prompt_of(asked, service.loaded.tokenizer, data, shown=shown)
  if not service.engine.holds(talk):
    talk.views()  # decoded here, not where the device waits
  return Question(
    talk=talk,
    prompt=prompt,
    tell=tell,
    deadline=time.monotonic() + settings.timeout,
    hints=hints,
    slots=slots,
    given=given,
    choice=(say.temperature, say.top_p, say.seed),
    streams=say.stream,
  )


def _pointed(say, mask, talk, loaded):
  """(hints, slots, where they are shown, the one that is given) of what is pointed at;
  slots of a model that looks at earlier masks, of which the one given is the last."""
  data = loaded.data
  if not memory.has_state(data):
    mask = hints_lib.chosen(mask, say.refers_to, _Masks(talk.masks))
    return hints_lib.make(say.points, say.box, mask, talk.sizes, data), None, (), None
  masks = _Masks(talk.masks)
  meant = hints_lib.chosen(mask, say.refers_to, masks)  # tells of a wrong number
  given = _given(mask, talk, data)
  slots = _Slots(talk.turns, given)
  pick = memory.NONE if say.refers_to is None else slots.answered[say.refers_to]
  if given:
    pick = len(slots) - 1
  if loaded.model.cfg.has_dense_state:
    meant = None  # a slot says it
  hints = hints_lib.make(say.points, say.box, meant, talk.sizes, data)
  shown = memory.shown(slots, data, pick)
  return hints, memory.stack([slots], data, [pick]), shown, given


def _given(mask, talk, data) -> memory.Slot | None:
  """The user's mask as later turns see it too. UserError for an empty one."""
  if mask is None:
    return None
  hints_lib.make((), None, mask, talk.sizes, data)
  return memory.of_mask(mask, data, before=len(talk.turns))


def _remember(talk, say, reply, question):
  pointed = say.model_dump(include={"points", "box", "refers_to"})
  asked = {"text": say.text.strip(), **pointed, "mask": say.mask is not None}
  turn = Turn.of(asked, reply, time.monotonic() - question.asked_at, question.given)
  talk.add(turn)
  return turn


class _Masks(Sequence):
  """Decodes the mask that is asked for."""

  def __init__(self, kept: list[KeptMask]):
    self._kept = kept

  def __len__(self):
    return len(self._kept)

  def __getitem__(self, k):
    return self._kept[k].array()


class _Slots(Sequence):
  """Earlier masks as slots, the users' before those of their answers; only those that
  are looked at are made, and once. answered: which of them are masks of answers, that
  `refers_to` counts."""

  def __init__(self, turns: list[Turn], given: memory.Slot | None):
    self._kept, self.answered, self._made = [], [], {}
    for t, turn in enumerate(turns):
      if turn.given:
        self._kept.append((turn.given, fill.USER, t))
      for mask in turn.masks:
        self.answered.append(len(self._kept))
        self._kept.append((mask.seen, fill.MODEL, t + 1))
    if given:
      self._made[len(self._kept)] = given
      self._kept.append(None)

  def __len__(self):
    return len(self._kept)

  def __getitem__(self, k):
    if k not in self._made:
      self._made[k] = unpacked(*self._kept[k])
    return self._made[k]
