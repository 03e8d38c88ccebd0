"""The page about NNX does what it says."""

import jax
import pytest
from flax import nnx

from tests.docs import notebooks


@pytest.fixture(scope="module")
def page():
  """What the page's code leaves behind."""
  found = {}
  exec("\n".join(notebooks.code("nnx")), found)
  return found


def test_the_module_says_what_the_functional_one_says(page):
  assert page["difference"] == 0


def test_gradients_are_of_the_mask_decoder_alone(page):
  paths = [path for path, _ in nnx.to_flat_state(page["gradients"])]
  assert paths and all(path[:2] == ("sam", "decoder") for path in paths)


def test_parameters_come_back_as_they_went(page):
  back = nnx.to_pure_dict(nnx.state(page["model"], nnx.Param))
  assert jax.tree.structure(back) == jax.tree.structure(page["params"])
