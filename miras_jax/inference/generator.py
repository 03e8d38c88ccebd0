"""A model that is ready to answer, and conversations that go on turn by turn.

`Session.turn` compares the tokens of a whole conversation with what the cache holds and
reads only those that differ: the last question as a rule; all of them after `undo`, a
new image, or when the oldest rounds no longer fit.
"""

import collections
import contextlib
import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import batch_table
from miras_jax.errors import UserError
from miras_jax.inference import generate as stages
from miras_jax.inference import showing
from miras_jax.inference.sampling import Sampling

# Tokens that a turn is padded to: buckets double up to 256, then grow by a quarter of a
# power of two.
LEAST_BUCKET, DOUBLED = 32, 256


DOES_NOT_FIT = (
  "the model with what is asked of it does not fit the device's memory: fewer"
  " conversations at a time, shorter answers (max_new_tokens), --weights=int8, or more"
  " devices, --mesh=fsdp:-1"
)


class DoesNotFit(UserError):
  """A device had no memory for it; the session that it happened to is lost."""


class Generator:
  """Parameters, token ids, static limits, and the programs that use them.

  `ids` needs `eos`, `pad`, `seg`, `obj` (`input_pipeline.tokenizer.TokenIds`). Each
  shape of batch compiles once. compiled: how often each program was traced. active:
  gives the context in which programs run, that of a mesh.
  """

  def __init__(
    self, model, params, ids, *, max_new_tokens=64, max_masks=4,
    active=contextlib.nullcontext,
  ):  # fmt: skip
    if max_new_tokens < 1 or max_masks < 1:
      raise ValueError(f"{max_new_tokens=} and {max_masks=} must be at least 1")
    self.model, self.params, self.ids = model, params, ids
    self.max_new_tokens, self.max_masks = max_new_tokens, max_masks
    self.compiled, self._active = collections.Counter(), active
    self._encode = self._jit(stages.encode_images)
    self._prefill = {
      fresh: self._jit(stages.prefill, donate_argnums=1, fresh=fresh)
      for fresh in (False, True)
    }
    self._prefill_row = {
      fresh: self._jit(stages.prefill_row, donate_argnums=1, fresh=fresh)
      for fresh in (False, True)
    }
    self._decode = self._jit(stages.decode, donate_argnums=1)
    self._read = self._jit(stages.read, max_masks=max_masks)
    self._read_row = self._jit(stages.read_row, max_masks=max_masks)
    self._show = self._jit(showing.show)
    self._show_row = self._jit(showing.show_row)
    self._put_row = self._jit(stages.put_row, donate_argnums=1)
    self._stop_row = self._jit(stages.stop_row, donate_argnums=1)
    limits = {"max_new_tokens": max_new_tokens, "max_masks": max_masks}
    self._generate = self._jit(stages.generate, **limits)

  def encode(self, batch):
    """Image part of the batch (`ENCODER_INPUTS`) -> encodings."""
    views = {k: batch[k] for k in batch_table.ENCODER_INPUTS}
    return self._encode(self.params, views)

  def generate(self, batch, encoded):
    """Prompt part of the batch -> what `stages.read` returns, on the device."""
    prompt = {k: batch[k] for k in batch_table.prompt_names()}
    return self._generate(self.params, prompt, encoded, self.ids)

  def session(self, encoded, max_len) -> "Session":
    """Conversations of up to `max_len` prompt tokens about encoded images."""
    return Session(self, encoded, max_len)

  def empty_session(self, one, rows, max_len) -> "Session":
    """One of so many rows without images; `one`: any encoding, with a B of 1."""
    blank = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), one)
    return self.session(blank, max_len)

  def jitted(self, stage):
    """The program of encode, prefill (of whole prompts), decode or read, to compile it
    for devices that are not there."""
    programs = {
      "encode": self._encode,
      "prefill": self._prefill[True],
      "decode": self._decode,
      "read": self._read,
    }
    return programs[stage].jitted

  def _jit(self, function, donate_argnums=(), **static):
    @functools.wraps(function)
    def traced(*args):
      self.compiled[function.__name__] += 1  # runs when it is traced, not when it runs
      return function(self.model, *args, **static)

    jitted = jax.jit(traced, donate_argnums=donate_argnums)

    @functools.wraps(function)
    def run(*args):
      try:
        with self._active():
          return jitted(*args)
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        raise DoesNotFit(DOES_NOT_FIT) from error

    run.jitted = jitted
    return run


class Session:
  """A batch of conversations that share programs, one a row of `encoded`."""

  def __init__(self, generator, encoded, max_len):
    self._generator, self._max_len = generator, max_len
    self._encoded = encoded
    rows, new = len(encoded["image_tokens"]), generator.max_new_tokens
    with generator._active():
      self._state = _new_state(generator.model, rows, max_len + new, new)
    self._said = [np.zeros(0, np.int64)] * rows  # Prompt.keys of what the cache holds
    self._unread = {}  # row: its prompt and how much of that the cache holds
    self.max_new_tokens = generator.max_new_tokens
    self.read_tokens = 0  # by all rows in all turns, without padding

  def turn(self, prompts, sampling=None, hints=None, slots=None, shown=None) -> dict:
    """Answers rows; returns what `stages.read` does, on the device.

    slots: the earlier masks of each row (`memory.stack`). shown: those that the
      language model reads, where they are others.
    prompts: for each row its whole conversation up to where the answer begins, with
      `tokens` and `image_slot` (T,); None: the row says nothing.
    """
    self.ask(prompts, slots if shown is None else shown)
    self.go_on(self._generator.max_new_tokens, sampling)
    return self.answers(hints, slots)

  def ask(self, prompts, slots=None):
    """Reads the prompts, all at once; see `turn`."""
    generator = self._generator
    if slots is not None and self._reads_masks:
      table = generator._show(generator.params, self._encoded, slots)
      self._encoded = self._encoded | {"slot_table": table}
    self.begin(prompts)
    parts = [self._next_part(b, self._max_len) for b in list(self._unread)]
    fresh = not any(start for _, _, start in parts)
    rows = self._rows_of(parts, range(len(self._said)))
    inputs = self._state, self._encoded, rows, generator.ids
    self._state = generator._prefill[fresh](generator.params, *inputs)

  def show(self, row, slots):
    """Gives a row, before its prompt is read, the earlier masks that this speaks of:
    `memory.stack` with a B of 1."""
    generator = self._generator
    if slots is not None and self._reads_masks:
      inputs = self._encoded, slots, row
      table = generator._show_row(generator.params, *inputs)
      self._encoded = self._encoded | {"slot_table": table}

  @property
  def _reads_masks(self):
    return "slot_table" in self._encoded

  @property
  def _moves_masks(self):
    return self._generator.model.cfg.has_dense_state

  def begin(self, prompts):
    """Takes prompts that `read_on` reads; see `turn`."""
    for b, prompt in enumerate(prompts):
      if prompt is not None:
        self._unread[b] = prompt, self._held(b, prompt)

  def read_on(self, limit):
    """Reads up to `limit` tokens of the prompts that were taken, first come first
    served. What is read to its end is answered by `go_on`."""
    generator = self._generator
    while self._unread and limit > 0:
      b = next(iter(self._unread))
      part = self._next_part(b, limit)
      rows = self._rows_of([part], [b])
      inputs = self._state, self._encoded, rows, generator.ids, b
      program = generator._prefill_row[not part[2]]
      self._state = program(generator.params, *inputs)
      limit -= len(part[1].tokens)

  def is_reading(self, row) -> bool:
    """Whether some of the row's prompt is still to be read."""
    return row in self._unread

  def _next_part(self, b, limit):
    """(b, up to `limit` more tokens of its prompt as a Prompt, where they begin),
    taken for read from now on."""
    prompt, start = self._unread.pop(b)
    stop = min(start + limit, len(prompt.tokens))
    if stop < len(prompt.tokens):
      self._unread = {b: (prompt, stop)} | self._unread
    self._said[b] = prompt.keys[:stop]
    self.read_tokens += stop - start
    return b, prompt.part(start, stop), start

  def _rows_of(self, parts, rows) -> stages.Rows:
    """What a program reads of these parts; `rows` are those that it knows."""
    width = self._bucket(max(len(part.tokens) for _, part, _ in parts))
    shape, at = (len(rows), width), {b: i for i, b in enumerate(rows)}
    tokens, slots = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    starts, counts = np.zeros(shape[0], np.int32), np.zeros(shape[0], np.int32)
    whole = np.zeros(shape[0], bool)
    for b, part, start in parts:
      i, count = at[b], len(part.tokens)
      tokens[i, :count], slots[i, :count] = part.tokens, part.image_slot
      starts[i], counts[i], whole[i] = start, count, b not in self._unread
    return stages.Rows(*map(jnp.asarray, (tokens, slots, starts, counts, whole)))

  def go_on(self, limit, sampling=None):
    """Adds up to `limit` tokens to each answer that has not ended."""
    generator = self._generator
    if sampling is None:
      sampling = Sampling.greedy(len(self._said))
    inputs = self._encoded, generator.ids, sampling, jnp.int32(limit)
    self._state = generator._decode(generator.params, self._state, *inputs)

  def answers(self, hints=None, slots=None) -> dict:
    """What has been answered so far; remembers the tokens."""
    out = self.masks_from(0, hints, slots)
    tokens, counts, lengths = jax.device_get(
      (out["tokens"], out["num_tokens"], self._state.length_B)
    )
    for b, count in enumerate(counts):
      self._remember(b, lengths[b], tokens[b], count)
    return out

  def masks_from(self, first, hints=None, slots=None) -> dict:
    """`answers`, with the masks of the [SEG] from number `first` on."""
    generator, first = self._generator, jnp.int32(first)
    slots = slots if self._moves_masks else None
    inputs = self._state, self._encoded, generator.ids, first, hints, slots
    return generator._read(generator.params, *inputs)

  def put(self, row, one):
    """Gives a row another image, an encoding with a B of 1; what it said is gone."""
    generator = self._generator
    self._encoded = generator._put_row(generator.params, self._encoded, one, row)
    self._said[row] = np.zeros(0, np.int64)
    self._unread.pop(row, None)

  def stop(self, row):
    """Adds nothing more to the answer of a row, and reads no more of its prompt."""
    generator = self._generator
    self._unread.pop(row, None)
    self._state = generator._stop_row(generator.params, self._state, row)

  def answer(self, row, hints=None, slots=None) -> dict:
    """`answers` of one row, with a B of 1; other rows go on where they are."""
    generator = self._generator
    slots = slots if self._moves_masks else None
    inputs = self._state, self._encoded, generator.ids, row, hints, slots
    out = generator._read_row(generator.params, *inputs)
    tokens, count, length = jax.device_get(
      (out["tokens"][0], out["num_tokens"][0], self._state.length_B[row])
    )
    self._remember(row, length, tokens, count)
    return out

  def _remember(self, b, length, tokens, count):
    """The last token of an answer has not been read."""
    if b not in self._unread:
      read = tokens[: max(count - 1, 0)]
      self._said[b] = np.concatenate([self._said[b][:length], read])

  def copy(self) -> "Session":
    """Another session that has said the same."""
    other = copy.copy(self)
    other._state = jax.tree.map(jnp.copy, self._state)
    other._said, other._unread = list(self._said), dict(self._unread)
    return other

  def progress(self):
    """(tokens so far, whether it has ended) of each row's answer."""
    state = self._state
    tokens, counts, ended = jax.device_get(
      (state.tokens_BG, state.step_B, state.done_B)
    )
    return [(t[:n], bool(e)) for t, n, e in zip(tokens, counts, ended, strict=True)]

  def _held(self, b, prompt):
    """How many tokens of a prompt the cache holds. ValueError past its room."""
    keys, held = prompt.keys, self._said[b]
    if len(keys) > self._max_len:
      raise ValueError(f"a prompt of {len(keys)} tokens, the limit is {self._max_len}")
    common = min(len(held), len(keys) - 1)  # the last one gives the first state
    differs = np.flatnonzero(held[:common] != keys[:common])
    return int(differs[0]) if len(differs) else common

  def buckets(self, limit=None) -> list[int]:
    """The lengths that what is read may be padded to, each a program of its own; those
    that parts of up to `limit` tokens need."""
    most, widths = min(limit or self._max_len, self._max_len), [LEAST_BUCKET]
    while widths[-1] < most:
      last = widths[-1]
      quarter = 1 << (last.bit_length() - 3)
      widths.append(2 * last if last < DOUBLED else last + quarter)
    return [min(width, self._max_len) for width in widths]

  def _bucket(self, count):
    return next(width for width in self.buckets() if width >= count)


_new_state = jax.jit(stages.new_state, static_argnums=(0, 1, 2, 3))
