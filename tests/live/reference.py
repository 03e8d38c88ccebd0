"""What live parity tests share: the reference libraries, random weights, the port."""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

from miras_jax.convert.tables import mapping

torch = pytest.importorskip("torch", reason="live parity needs torch==2.13.0")
TOLERANCE = 1e-4  # of activations near 1, float32


def randomised(model, seed):
  """A torch model with every parameter and buffer-like embedding random, in eval mode.

  Weights keep activations near 1; norms are near 1, so that no term hides.
  """
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in model.named_parameters():
      noise = torch.randn(x.shape, generator=generator)
      if name.endswith(("weight", "gamma")) and x.ndim == 1:
        x.copy_(1 + 0.1 * noise)
      elif x.ndim > 1 and "embed" not in name and "token" not in name:
        x.copy_(noise / x[0].numel() ** 0.5)
      else:
        x.copy_(0.3 * noise)
  return model.eval()


def state_of(model, prefix=""):
  """{published name: array} of a torch model; shared tensors once."""
  return {prefix + k: x.detach().numpy() for k, x in model.state_dict().items()}


def ported(model, table, init, *, part, prefix=""):
  """Our parameters of one part from a torch model's state dict.

  init: () -> variables of our module, only traced. Strict from both ends.
  """
  shapes = {part: jax.eval_shape(init)["params"]}
  state = state_of(model, prefix)
  return mapping.convert(state, table, mapping.shapes_of(shapes))[part]


def close(ours, theirs, tolerance=TOLERANCE):
  """Asserts equality within `tolerance` of the reference's largest value or of 1."""
  theirs = theirs.detach().numpy() if torch.is_tensor(theirs) else theirs
  ours = np.asarray(ours)
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  assert np.isfinite(ours).all()
  size = max(1.0, float(np.abs(theirs).max(initial=0)))
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * size)


def nhwc(x):
  return np.moveaxis(np.asarray(x), 1, -1)


def nchw(x):
  return np.moveaxis(np.asarray(x), -1, 1)


def import_timm():
  """timm's ConvNeXt module. torchvision, which breaks the CPU build of torch beside it,
  plays no part in the model: an empty stand-in lets timm import without it."""
  if importlib.util.find_spec("timm") is None:
    pytest.skip("live parity of ConvNeXt needs timm (pip install --no-deps timm)")
  if importlib.util.find_spec("torchvision") is None:
    with _stand_in("torchvision"):
      from timm.models import convnext
  else:
    from timm.models import convnext
  return convnext


class _Anything(type):
  """A class whose attributes are classes like it."""

  def __getattr__(cls, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _Module(types.ModuleType):
  __path__ = ()

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  def __init__(self, name):
    self.name = name

  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] != self.name:
      return None
    return importlib.machinery.ModuleSpec(name, self, is_package=True)

  def create_module(self, spec):
    return _Module(spec.name)

  def exec_module(self, module):
    pass


@contextlib.contextmanager
def _stand_in(name):
  finder = _Finder(name)
  sys.meta_path.append(finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
      del sys.modules[module]
