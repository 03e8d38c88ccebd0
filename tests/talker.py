"""A stand-in for a trained model: says what a script tells it, masks included.

`FakeGenerator` sees the prompt tokens, as the real one does, so that tests can check
what the model would have been asked. Runs without compiling anything.
"""

import numpy as np

from input_pipeline.examples import DataConfig
from input_pipeline.tokenizer import train_bpe
from miras_jax.inference import load

SIDE = 4  # low-resolution mask sides
TEXTS = ["Where is it? which one", "Sure, it is . cup", "the left half, the right half"]


def data_config(**changes):
  shapes = {"max_len": 192, "max_masks": 2, "sam_size": 16, "aux_size": 16}
  return DataConfig(**shapes | {"num_image_tokens": 4, "system": ""} | changes)


def tokenizer():
  return train_bpe(TEXTS, vocab_size=320)


def half(name):
  """Logits of a mask that covers a half of the canvas, or all or none of it."""
  logits = np.full((SIDE, SIDE), -9.0, np.float32)
  part = {"left": np.s_[:, : SIDE // 2], "top": np.s_[: SIDE // 2], "all": np.s_[:]}
  if name in part:
    logits[part[name]] = 9.0
  return logits


class FakeGenerator:
  """`script(prompt text, image_sam)` returns (answer text, [names for `half`])."""

  def __init__(self, tokenizer, script, max_masks=2):
    self.tokenizer, self.script, self.max_masks = tokenizer, script, max_masks
    self.prompts, self.tokens, self.shapes = [], [], set()
    self.masks = {}  # row: names of the masks of its last answer

  def encode(self, batch):
    self.shapes.add(batch["image_sam"].shape)
    return batch["image_sam"]

  def session(self, encoded, max_len):
    return FakeSession(self, encoded)

  def empty_session(self, one, rows, max_len):
    return FakeSession(self, np.zeros((rows, *one.shape[1:]), one.dtype))

  def answer(self, prompts, encoded):
    B, M, G = len(encoded), self.max_masks, 64
    self.shapes.add(len(prompts))
    eos, pad = self.tokenizer.ids.eos, self.tokenizer.ids.pad
    out = {
      "tokens": np.full((B, G), pad),
      "num_tokens": np.zeros(B, int),
      "ended": np.ones(B, bool),
      "num_seg": np.zeros(B, int),
      "seg_valid": np.zeros((B, M), int),
      "mask_logits": np.zeros((B, M, SIDE, SIDE), np.float32),
      "iou": np.full((B, M), 0.5, np.float32),
    }
    for b, asked in enumerate(prompts):
      if asked is None:
        continue
      self.tokens.append(asked.tokens.tolist())
      prompt = self.tokenizer.decode(self.tokens[-1])
      text, masks = self.script(prompt, encoded[b])
      self.prompts.append(prompt)
      tokens = [*self._ids(text), eos]
      out["tokens"][b, : len(tokens)] = tokens
      out["num_tokens"][b] = len(tokens)
      out["num_seg"][b] = len(masks)
      self.masks[b] = masks
      self.put_masks(out, b, masks[:M])
    return out

  def put_masks(self, out, b, names):
    """Row b's masks in place of those that it has."""
    out["seg_valid"][b] = 0
    for m, name in enumerate(names):
      out["seg_valid"][b, m] = 1
      out["mask_logits"][b, m] = half(name)

  def _ids(self, text):
    ids = []
    for i, part in enumerate(text.split("[SEG]")):
      ids += ([self.tokenizer.ids.seg] if i else []) + self.tokenizer.encode(part)
    return ids


class FakeSession:
  """What `generator.Session` is to conversations; remembers the hints it was given."""

  max_new_tokens = 64

  def __init__(self, generator, encoded):
    self._generator, self._encoded = generator, encoded
    self._shown = np.zeros(len(encoded), int)
    self._out = generator.answer([None] * len(encoded), encoded)

  def turn(self, prompts, sampling=None, hints=None, slots=None, shown=None):
    self.ask(prompts, slots if shown is None else shown)
    return self.answers(hints, slots)

  def ask(self, prompts, slots=None):
    asked = np.array([prompt is not None for prompt in prompts])
    out = self._generator.answer(prompts, self._encoded)
    for name, value in out.items():
      self._out[name] = self._out[name].copy()
      self._out[name][asked] = value[asked]
    self._shown[asked] = 0

  def go_on(self, limit, sampling=None):
    self._shown = np.minimum(self._shown + limit, self._out["num_tokens"])

  def progress(self):
    counts = self._out["num_tokens"]
    return [
      (tokens[:shown], bool(shown == count))
      for tokens, shown, count in zip(
        self._out["tokens"], self._shown, counts, strict=True
      )
    ]

  def answers(self, hints=None, slots=None):
    self._generator.hints, self._generator.slots = hints, slots
    return dict(self._out)

  def masks_from(self, first, hints=None, slots=None):
    out = {name: value.copy() for name, value in self._out.items()}
    for b, names in self._generator.masks.items():
      self._generator.put_masks(
        out, b, names[first : first + self._generator.max_masks]
      )
    return out

  def show(self, row, slots):
    pass

  def begin(self, prompts):
    self.ask(prompts)

  def read_on(self, limit):
    pass

  def is_reading(self, row):
    return False

  def buckets(self, limit=None):
    return [32]

  def put(self, row, one):
    self._encoded = self._encoded.copy()
    self._encoded[row] = one[0]

  def stop(self, row):
    self._shown[row] = self._out["num_tokens"][row]

  def answer(self, row, hints=None, slots=None):
    self._generator.hints, self._generator.slots = hints, slots
    return {name: value[row : row + 1] for name, value in self._out.items()}

  def copy(self):
    return FakeSession(self._generator, self._encoded)


class FakeLoaded(load.Loaded):
  """`Loaded` whose generator is scripted; set `script` on the class of the instance."""

  def generator(self, max_new_tokens):
    return self.model


def loaded(script, **changes):
  """A Loaded that answers by `script`."""
  tok = tokenizer()
  return FakeLoaded(
    model=FakeGenerator(tok, script),
    params=None,
    tokenizer=tok,
    data=data_config(**changes),
  )
