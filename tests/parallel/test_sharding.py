"""The rule table is strict: covered, used, spelt right, and slots follow parameters."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from miras_jax.config import variants
from miras_jax.config.overrides import with_overrides
from miras_jax.config.settings import MeshConfig
from miras_jax.models import miras, trees
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.training import step as train_step


@pytest.fixture
def mesh():
  return mesh_lib.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))


def test_an_uncovered_parameter_is_an_error():
  with pytest.raises(ValueError, match="llm/novelty"):
    sharding.spec_for("llm/novelty")


def test_a_misspelt_axis_is_an_error():
  with pytest.raises(ValueError, match="'fdsp'"):
    sharding.check_rules(["a/kernel"], ((r"kernel$", P("fdsp")),))


def test_an_unused_rule_is_an_error():
  rules = ((r"kernel$", P("fsdp")), (r"bias$", P()))
  with pytest.raises(ValueError, match="bias"):
    sharding.check_rules(["a/kernel"], rules)


def test_an_axis_that_does_not_divide_is_dropped_for_that_dimension_only(mesh):
  assert sharding.fit(P("fsdp", "tensor"), (6, 8), mesh) == P(None, "tensor")
  assert sharding.fit(P("fsdp", "tensor"), (8, 8), mesh) == P("fsdp", "tensor")


def test_dropped_axes_are_listed(mesh):
  shapes = {"a": {"kernel": jnp.zeros((6, 8))}, "b": {"kernel": jnp.zeros((8, 8))}}
  rules = ((r"kernel$", P("fsdp", "tensor")),)
  assert sharding.replicated(shapes, mesh, rules) == ["a/kernel"]


def test_optimizer_slots_and_average_lie_as_their_parameter(mesh):
  trainable = {"llm": {"lm_head": {"kernel": jnp.zeros((8, 4))}}}
  frozen = {"llm": {"embed": {"embedding": jnp.zeros((4, 8))}}}
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  shapes = jax.eval_shape(
    lambda: train_step.create_state(trainable, frozen, tx, seed=0, ema=0.9)
  )
  placed = sharding.state_shardings(shapes, mesh)
  expected = P("fsdp", "tensor")
  slots = optax.tree.get(placed.opt_state, "mu")
  assert slots["llm"]["lm_head"]["kernel"].spec == expected
  assert placed.ema["llm"]["lm_head"]["kernel"].spec == expected
  assert placed.trainable["llm"]["lm_head"]["kernel"].spec == expected
  assert placed.frozen["llm"]["embed"]["embedding"].spec == P("tensor", "fsdp")
  assert placed.step.spec == P()


@pytest.fixture(scope="module")
def full_size():
  """Shapes of the 7B model with adapters and a state, nothing allocated."""
  changes = {"llama.lora_rank": 8, "state": "both"}
  cfg = with_overrides(variants.VARIANTS["7b"], changes)
  return jax.eval_shape(lambda key: miras.init_params(cfg, key), jax.random.key(0))


def test_the_table_covers_the_full_size_model_and_every_rule_is_used(full_size):
  sharding.check_rules(trees.paths_of(full_size))


def test_the_norm_of_a_head_is_on_every_device():
  assert sharding.spec_for("llm/layers/attn/q_norm/scale") == P()


def test_a_projector_of_one_layer_is_cut_as_the_first_of_two():
  one, two = (sharding.spec_for(f"projector/{n}/kernel") for n in ("linear", "fc1"))
  assert one == two == P("fsdp", "tensor")


def test_a_sixteenth_of_every_large_matrix_lies_on_each_of_sixteen(full_size):
  class Mesh:
    shape = dict.fromkeys(mesh_lib.AXES, 1) | {"fsdp": 16}

  whole = 0
  for path, leaf in flatten_dict(full_size, sep="/").items():
    spec = sharding.fit(sharding.spec_for(path), leaf.shape, Mesh)
    whole += leaf.size if "fsdp" not in spec else 0
  assert whole < 0.01 * trees.count(full_size)


@pytest.mark.parametrize("name", ["lora_heads+clip_top_half", "full", "paper"])
def test_presets_match_the_full_size_model(full_size, name):
  trainable, frozen = trees.split_by_name(full_size, name)
  assert trees.count(trainable) + trees.count(frozen) == trees.count(full_size)
  assert "gaussian" in str(trees.paths_of(frozen))
  assert not [path for path in trees.paths_of(frozen) if path.startswith("state")]
