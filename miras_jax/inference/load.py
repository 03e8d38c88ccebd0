"""Opens a checkpoint: model, parameters, tokenizer and data settings in one place."""

import contextlib
import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from input_pipeline import templates
from input_pipeline.tokenizer import load_tokenizer
from miras_jax.checkpoint import reading, workdir
from miras_jax.convert import folder as converted
from miras_jax.convert.files.stream import MANIFEST
from miras_jax.convert.outputs import is_converted
from miras_jax.errors import UserError
from miras_jax.inference.generator import Generator
from miras_jax.inference.placement import Placement
from miras_jax.inference.prepare import prepare
from miras_jax.models.attention import attention_for
from miras_jax.models.miras import Miras
from miras_jax.storage import copies
from miras_jax.training.task import talk_config

# Most masks of an answer, whatever a row of training had room for: a [SEG] that is not
# there costs room in the output alone.
MOST_MASKS = 8


class Loaded(NamedTuple):
  """What a checkpoint holds. `data` is the pipeline's DataConfig, `log` the path of the
  run's metrics.jsonl."""

  model: Any
  params: Any
  tokenizer: Any
  data: Any
  config: Any = None
  step: int = 0
  log: Any = None
  mesh: Any = None

  def active(self):
    """Context in which the model's own functions run on its mesh."""
    return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

  def generator(self, max_new_tokens):
    """A Generator that stops where this template's answers end."""
    end = templates.end_token(self.tokenizer, self.data.template)
    return Generator(
      self.model,
      self.params,
      self.tokenizer.ids._replace(eos=end),
      max_new_tokens=max_new_tokens,
      max_masks=max(self.data.max_masks, MOST_MASKS),
      active=self.active,
    )


def open_checkpoint(checkpoint, *, weights="trained", mesh=None) -> Loaded:
  """Opens a `miras train` folder, one of its step folders or a converted one.

  The parameters are those of `prepare.prepare`, which says what `weights` may be. With
  a mesh they are read straight to where the trainer's table puts them.
  """
  placed = Placement(mesh)
  config, params, tokenizer_dir, step = load_for_inference(checkpoint, sharding=placed)
  if not tokenizer_dir.is_dir():
    raise UserError(
      f"{tokenizer_dir}: missing; convert the weights with --tokenizer=PATH to talk"
    )
  tokenizer = load_tokenizer(tokenizer_dir)
  folder = None if is_converted(checkpoint) else workdir.locate(checkpoint)[0]
  if folder:
    meta = reading.read_meta(folder.step(step))
    reading.check_tokenizer(folder, meta, tokenizer.fingerprint())
  cfg, params = prepare(_for_here(config.model), params, weights)
  return Loaded(
    model=Miras(cfg, jnp.dtype(config.model.dtype), config.data.view),
    params=params,
    tokenizer=tokenizer,
    data=talk_config(config),
    config=config,
    step=step,
    log=folder and folder.metrics,
    mesh=mesh,
  )


def read_config(checkpoint):
  """RunConfig of a folder that `open_checkpoint` takes, without its parameters."""
  if is_converted(checkpoint):
    return reading.read_config(workdir.Workdir(copies.fetch(checkpoint)))
  return reading.read_config(workdir.locate(checkpoint)[0])


def find_step(checkpoint) -> int:
  """The step that `open_checkpoint` would open; 0 of a converted folder."""
  return 0 if is_converted(checkpoint) else workdir.locate(checkpoint)[1]


def find_identity(checkpoint) -> str:
  """Another one means other parameters, be they at the same path and step."""
  if is_converted(checkpoint):
    file = pathlib.Path(copies.fetch(checkpoint)) / MANIFEST
  else:
    folder, step = workdir.locate(checkpoint)
    file = folder.step(step) / "meta" / "metadata"
  try:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
  except OSError as error:
    raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _for_here(choice):
  """The MirasConfig of a ModelChoice with attention that this platform has, whatever it
  trained with."""
  cfg = choice.build()
  platform = jax.default_backend()
  attention = attention_for(cfg.llama.attention, platform, choice.dtype)
  llama = dataclasses.replace(cfg.llama, attention=attention)
  return dataclasses.replace(cfg, llama=llama)


def load_for_inference(checkpoint, *, sharding=None) -> tuple:
  """(RunConfig, params, tokenizer folder, step) of a trained or a converted folder.

  The step of what `miras convert` wrote is 0; see `checkpoint.reading.load_run`.
  """
  kind = converted if is_converted(checkpoint) else reading
  return kind.load_run(checkpoint, sharding=sharding)
