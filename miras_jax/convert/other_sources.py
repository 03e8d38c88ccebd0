"""Published weights whose form our tree does not have, said in the form it has."""

import numpy as np

from miras_jax.convert.files.stream import Target
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.errors import UserError


class LinearProjector:
  """LISA's and the first LLaVA's projector, one linear layer, as our two with a GELU.

  gelu(z) - gelu(-z) = z for every z, so W x + b is W (gelu(x) - gelu(-x)) + b: the
  first layer is [I; -I; 0], the second [W, -W, 0]. Exact but for rounding. The language
  model must be twice as wide as the image tokens, which all published ones are.
  """

  NAME = "model.mm_projector"

  def __init__(self, file, weight, bias):
    self.path = file.path
    self._file, self._weight, self._bias = file, weight, bias
    self.out_width, self.width = file.infos[weight].shape

  @classmethod
  def replace(cls, tensors):
    """Puts the two layers in the place of the one, if it is there."""
    found = [k for k in tensors if k.endswith(f"{cls.NAME}.weight")]
    if not found:
      return
    weight = found[0]
    prefix = weight.removesuffix(".weight")
    bias = f"{prefix}.bias"
    file, info = tensors[weight]
    if bias not in tensors or len(info.shape) != 2:
      raise UserError(f"{file.path}: {weight!r} is {info}, want a matrix and {bias!r}")
    projector = cls(file, weight, bias)
    if projector.out_width < 2 * projector.width:
      raise UserError(
        f"{file.path}: {weight!r} is {info}; a linear projector needs a language model"
        f" of width {2 * projector.width} at least"
      )
    kind = type(tensors[weight])
    del tensors[weight], tensors[bias]
    for name, shape in projector.shapes().items():
      tensors[prefix + name] = kind(projector, TensorInfo(shape, info.dtype))

  def shapes(self):
    D, C = self.out_width, self.width
    return {".0.weight": (D, C), ".0.bias": (D,), ".2.weight": (D, D), ".2.bias": (D,)}

  def read(self, key):
    D, C = self.out_width, self.width
    dtype = self._file.infos[self._weight].dtype
    if key.endswith(".0.bias"):
      return np.zeros(D, dtype)
    if key.endswith(".2.bias"):
      return self._file.read(self._bias)
    if key.endswith(".0.weight"):
      eye = np.eye(C, dtype=dtype)
      return np.concatenate([eye, -eye, np.zeros((D - 2 * C, C), dtype)])
    weight = self._file.read(self._weight)
    return np.concatenate([weight, -weight, np.zeros((D, D - 2 * C), dtype)], axis=1)


def with_linear_projector(tree, targets):
  """[Target] of published names with the one layer again, if the tree's two are that.

  A projector that was trained since then is two layers and stays so.
  """
  name = LinearProjector.NAME
  first = next((t.name for t in targets if t.name.endswith(f"{name}.0.weight")), None)
  if first is None or not _is_linear(tree):
    return targets
  stem = first.removesuffix("0.weight")
  width = tree.infos["projector/fc1/kernel"].shape[0]
  last = next(t for t in targets if t.name == f"{stem}2.weight")
  bias = next(t for t in targets if t.name == f"{stem}2.bias")

  def weight():
    yield np.ascontiguousarray(tree.read("projector/fc2/kernel")[:width].T)

  made = Target(f"{stem}weight", (last.shape[0], width), last.dtype, weight)
  others = [t for t in targets if not t.name.startswith(stem)]
  return [*others, made, bias._replace(name=f"{stem}bias")]


def _is_linear(tree):
  """Whether fc1 is [I, -I, 0] without bias and fc2 [W, -W, 0] in our orientation."""
  C, D = tree.infos["projector/fc1/kernel"].shape
  if D < 2 * C or tree.read("projector/fc1/bias").any():
    return False
  eye = np.concatenate([np.eye(C), -np.eye(C), np.zeros((C, D - 2 * C))], axis=1)
  if not np.array_equal(tree.read("projector/fc1/kernel"), eye):
    return False
  kernel = tree.read("projector/fc2/kernel")
  return np.array_equal(kernel[C : 2 * C], -kernel[:C]) and not kernel[2 * C :].any()
