"""`miras convert` on tiny folders, and what they hold."""

import numpy as np
from safetensors.numpy import load_file

from miras_jax.convert import command
from miras_jax.convert import folder as converted
from tests.convert.checkpoints import CFG, SET

WIDTH, MLP_WIDTH = CFG.llama.width, CFG.llama.mlp_width
LORA = {"llama.lora_rank": 2, "llama.lora_targets": ("q_proj", "v_proj")}


def convert(*args):
  return command.main([*map(str, args), *SET])


def read_folder(folder):
  state = {}
  for path in sorted(folder.glob("*.safetensors")):
    state |= load_file(path)
  return state


def config_of(folder):
  with converted.FolderTree(folder) as tree:
    return tree.config.model.build()


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
    assert np.asarray(found[key]).tobytes() == array.tobytes(), key


def union(parts):
  return "--src=" + ",".join(map(str, parts))


def listing(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
