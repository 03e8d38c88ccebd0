"""Equal means every leaf, its dtype, its shape and every bit."""

import numpy as np
import pytest

from miras_jax.convert import command, compare
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.convert.tree import Tree
from miras_jax.errors import UserError

LEAVES = {
  "sam/pos_embed": np.array([0.0, np.nan], np.float32),
  "llm/layers/attn/q_proj/kernel": np.ones((2, 3, 4), np.float32),
}


class InMemory(Tree):
  def __init__(self, leaves):
    self.leaves = leaves
    self.infos = {p: TensorInfo(x.shape, x.dtype) for p, x in leaves.items()}

  def read(self, path, layer=None):
    return self.leaves[path] if layer is None else self.leaves[path][layer]


@pytest.fixture
def against(monkeypatch):
  """Compares LEAVES with themselves but for some changed ones."""

  def run(changed, **options):
    trees = {"a": LEAVES, "b": LEAVES | changed}
    monkeypatch.setattr(compare, "open_tree", lambda path: InMemory(trees[path]))
    return compare.compare(["a", "b"], **options)

  return run


def test_equal_trees_say_how_many_leaves_they_have(against):
  assert against({}) == 2


@pytest.mark.parametrize(
  "changed",
  [
    np.array([-0.0, np.nan], np.float32),
    np.array([0.0, np.nan], np.float64),
    np.array([[0.0, np.nan]], np.float32),
  ],
  ids=["one bit", "dtype", "shape"],
)
def test_what_differs_is_named(against, changed):
  with pytest.raises(UserError, match="1 of 2 leaves differ.*'sam/pos_embed'"):
    against({"sam/pos_embed": changed})


def test_the_last_layer_counts(against):
  path = "llm/layers/attn/q_proj/kernel"
  changed = LEAVES[path].copy()
  changed[1, 2, 3] = 2
  with pytest.raises(UserError, match="q_proj/kernel"):
    against({path: changed})


def test_a_leaf_that_only_one_has_is_named(against):
  with pytest.raises(UserError, match="only one of a and b has 'projector/bias'"):
    against({"projector/bias": np.ones(1)})


def test_other_leaves_may_differ_when_some_are_asked_for(against):
  assert against({"sam/pos_embed": np.ones(2, np.float32)}, leaves="^llm/") == 1


@pytest.mark.parametrize("leaves", ["^nowhere", "("])
def test_a_pattern_that_finds_nothing_is_no_success(against, leaves):
  with pytest.raises(UserError, match="--leaves="):
    against({}, leaves=leaves)


@pytest.mark.parametrize("folders", ["a", "a,b,c"])
def test_two_folders_are_compared(folders):
  with pytest.raises(UserError, match="want two folders"):
    command.main([f"--compare={folders}"])
