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
from miras_jax.inference import generate as stages
from miras_jax.inference.sampling import Sampling

LEAST_BUCKET = 32  # tokens; a turn is padded to the next bucket, each twice the last


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
    self._decode = self._jit(stages.decode, donate_argnums=1)
    self._read = self._jit(stages.read, max_masks=max_masks)
    self._read_row = self._jit(stages.read_row, max_masks=max_masks)
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
      with self._active():
        return jitted(*args)

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
    self._said = [np.zeros(0, np.int32)] * rows  # tokens whose keys the cache holds
    self.max_new_tokens = generator.max_new_tokens
    self.read_tokens = 0  # by all rows in all turns, without padding

  def turn(self, prompts, sampling=None, hints=None) -> dict:
    """Answers rows; returns what `stages.read` does, on the device.

    prompts: for each row its whole conversation up to where the answer begins, with
      `tokens` and `image_slot` (T,); None: the row says nothing.
    """
    self.ask(prompts)
    self.go_on(self._generator.max_new_tokens, sampling)
    return self.answers(hints)

  def ask(self, prompts):
    """Reads the prompts; see `turn`."""
    rows = [self._unread(b, prompt) for b, prompt in enumerate(prompts)]
    width = self._bucket(max(len(tokens) for tokens, _, _ in rows))
    generator = self._generator
    fresh = not any(start for _, _, start in rows)
    self._state = generator._prefill[fresh](
      generator.params,
      self._state,
      self._encoded,
      stages.Rows(
        jnp.asarray(_padded([tokens for tokens, _, _ in rows], width, 0)),
        jnp.asarray(_padded([slots for _, slots, _ in rows], width, -1)),
        jnp.asarray([start for _, _, start in rows], jnp.int32),
        jnp.asarray([len(tokens) for tokens, _, _ in rows], jnp.int32),
      ),
      generator.ids,
    )

  def go_on(self, limit, sampling=None):
    """Adds up to `limit` tokens to each answer that has not ended."""
    generator = self._generator
    if sampling is None:
      sampling = Sampling.greedy(len(self._said))
    inputs = self._encoded, generator.ids, sampling, jnp.int32(limit)
    self._state = generator._decode(generator.params, self._state, *inputs)

  def answers(self, hints=None) -> dict:
    """What has been answered so far; remembers the tokens."""
    generator = self._generator
    inputs = self._state, self._encoded, generator.ids, hints
    out = generator._read(generator.params, *inputs)
    tokens, counts, lengths = jax.device_get(
      (out["tokens"], out["num_tokens"], self._state.length_B)
    )
    for b, count in enumerate(counts):
      said = self._said[b][: lengths[b]]
      self._said[b] = np.concatenate([said, tokens[b, :count]])
    return out

  def put(self, row, one):
    """Gives a row another image, an encoding with a B of 1; what it said is gone."""
    generator = self._generator
    self._encoded = generator._put_row(generator.params, self._encoded, one, row)
    self._said[row] = np.zeros(0, np.int32)

  def stop(self, row):
    """Adds nothing more to the answer of a row."""
    generator = self._generator
    self._state = generator._stop_row(generator.params, self._state, row)

  def answer(self, row, hints=None) -> dict:
    """`answers` of one row, with a B of 1; other rows go on where they are."""
    generator = self._generator
    inputs = self._state, self._encoded, generator.ids, row, hints
    out = generator._read_row(generator.params, *inputs)
    tokens, count, length = jax.device_get(
      (out["tokens"][0], out["num_tokens"][0], self._state.length_B[row])
    )
    said = self._said[row][:length]
    self._said[row] = np.concatenate([said, tokens[:count]])
    return out

  def copy(self) -> "Session":
    """Another session that has said the same."""
    other = copy.copy(self)
    other._state = jax.tree.map(jnp.copy, self._state)
    other._said = list(self._said)
    return other

  def progress(self):
    """(tokens so far, whether it has ended) of each row's answer."""
    state = self._state
    tokens, counts, ended = jax.device_get(
      (state.tokens_BG, state.step_B, state.done_B)
    )
    return [(t[:n], bool(e)) for t, n, e in zip(tokens, counts, ended, strict=True)]

  def _unread(self, b, prompt):
    """(tokens, slots) of a prompt that the cache lacks, and where they begin."""
    if prompt is None:
      return np.zeros(0, np.int32), np.zeros(0, np.int32), 0
    tokens, slots = prompt.tokens, prompt.image_slot
    if len(tokens) > self._max_len:
      raise ValueError(
        f"a prompt of {len(tokens)} tokens, the limit is {self._max_len}"
      )
    held = self._said[b]
    common = min(len(held), len(tokens) - 1)  # the last one gives the first state
    differs = np.flatnonzero(held[:common] != tokens[:common])
    start = int(differs[0]) if len(differs) else common
    self._said[b] = np.asarray(tokens, np.int32)
    self.read_tokens += len(tokens) - start
    return tokens[start:], slots[start:], start

  def buckets(self) -> list[int]:
    """The lengths that what is read may be padded to, each a program of its own."""
    widths = [min(LEAST_BUCKET, self._max_len)]
    while widths[-1] < self._max_len:
      widths.append(min(2 * widths[-1], self._max_len))
    return widths

  def _bucket(self, count):
    return next(width for width in self.buckets() if width >= count)


_new_state = jax.jit(stages.new_state, static_argnums=(0, 1, 2, 3))


def _padded(rows, width, fill):
  out = np.full((len(rows), width), fill, np.int32)
  for b, row in enumerate(rows):
    out[b, : len(row)] = row
  return out
