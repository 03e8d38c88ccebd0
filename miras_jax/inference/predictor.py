"""The Python door to a trained model: load it, start conversations about images.

from miras_jax import Predictor
predictor = Predictor.load("runs/first")
chat = predictor.start("photo.jpg")
reply = chat.say("Which cup is on the left?")
reply.text, reply.masks[0].array
"""

import io
import os
import pathlib

import jax
import numpy as np
from PIL import Image

from input_pipeline import image_ops, safe_files
from miras_jax.errors import UserError
from miras_jax.inference import devices
from miras_jax.inference.conversation import Conversation
from miras_jax.inference.load import open_checkpoint
from miras_jax.inference.prepare import WEIGHTS


class Predictor:
  """A loaded model. Compiles when it is used first; later images compile nothing."""

  def __init__(self, loaded, *, max_new_tokens=128):
    number = isinstance(max_new_tokens, int) and not isinstance(max_new_tokens, bool)
    if not number or max_new_tokens < 1:
      raise UserError(f"max_new_tokens={max_new_tokens!r} must be 1 or more")
    self.loaded = loaded
    self.generator = loaded.generator(max_new_tokens)

  @classmethod
  def load(
    cls, path, *, max_new_tokens=128, mesh=None, weights="trained"
  ) -> "Predictor":
    """Opens a workdir of `miras train`, one of its steps or a converted folder.

    mesh: a text as "data:4,fsdp:2" (see `devices.py`), or a jax Mesh; by default one
    device. weights: "trained", or "int8" (see `prepare.py`).
    """
    if not isinstance(path, str | os.PathLike):
      raise UserError(f"a checkpoint of type {type(path).__name__}: want a path")
    if not os.fspath(path):
      raise UserError("a checkpoint of an empty path: name a folder")
    if isinstance(mesh, str):
      mesh = devices.make(devices.parse(mesh))
    if weights not in WEIGHTS:
      raise UserError(f"weights={weights!r}: there are {', '.join(WEIGHTS)}")
    if not (mesh is None or isinstance(mesh, jax.sharding.Mesh)):
      raise UserError(f"mesh={mesh!r}: want a text such as 'data:4' or a jax Mesh")
    loaded = open_checkpoint(path, weights=weights, mesh=mesh)
    return cls(loaded, max_new_tokens=max_new_tokens)

  def start(self, image) -> Conversation:
    """A conversation about an image: a path, encoded bytes, a PIL image or uint8 RGB
    (H, W, 3). Raises UserError for one that cannot be read."""
    data, name = encoded(image)
    try:
      return Conversation(self.loaded, self.generator, data)
    except image_ops.ImageError as error:
      raise UserError(f"{name}: {error}") from None


def encoded(image) -> tuple[bytes, str]:
  """(encoded bytes, what a message calls them) of an image in any of its forms."""
  if isinstance(image, bytes | bytearray | memoryview):
    return bytes(image), "image"
  if isinstance(image, str | os.PathLike):
    return read_image(image), str(image)
  if isinstance(image, np.ndarray):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
      raise UserError(f"an image of {image.dtype} {image.shape}: want uint8 (H, W, 3)")
    image = Image.fromarray(image) if image.size else Image.new("RGB", (0, 0))
  if not isinstance(image, Image.Image):
    raise UserError(
      f"an image of type {type(image).__name__}: want a path, encoded bytes or pixels"
    )
  if 0 in image.size:
    raise UserError("an image without pixels")
  stream = io.BytesIO()
  try:  # PIL reads the pixels of a file that it has opened now
    image.convert("RGB").save(stream, "PNG")
  except (OSError, ValueError, SyntaxError) as error:
    raise UserError(f"image: cannot be read: {error}") from None
  return stream.getvalue(), "image"


def read_image(path) -> bytes:
  """Encoded bytes of an image file, proven to decode. UserError names the file."""
  try:
    image = safe_files.read_bytes(pathlib.Path(path), safe_files.MAX_IMAGE_BYTES)
    image_ops.decode_image(image)
  except FileNotFoundError:
    raise UserError(f"{path}: no such image file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise UserError(f"{path}: {error}") from None
  return image
