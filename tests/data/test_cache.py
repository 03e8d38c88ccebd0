"""Cached features train as the encoders do, and a cache of anything else is refused."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from input_pipeline import examples
from input_pipeline.feature_cache import FeatureCache
from miras_jax import cli
from miras_jax.checkpoint import workdir
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import initial_state, plan, task
from miras_jax.training.features import PARTS, cacheable, check, encode, encoder_params
from tests import prist_files
from tests.training.test_task import MICRO

CONFIG = """
from configs import common


def get_config(arg=""):
  c = common.base_config()
  c.model.overrides = {overrides}
  c.data.update(dict(dir={folder!r}, vocab_size=400))
  c.batch_size = 8
  c.loss.loss_resolution = 16
  return c
"""
IMAGES = ("a.png", "b.png", "c.png")
FEATURES = PARTS


@pytest.fixture(autouse=True)
def records_reach_caplog(monkeypatch):
  for name in ("miras_jax", "input_pipeline"):
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)


def write(config, folder, *options):
  return cli.main(
    ["data", "cache", f"--config={config}", f"--out={folder}", "--part_size=2",
     "--batch_size=2", *options]
  )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """(config file, a cache of it): eight records of three images."""
  root = tmp_path_factory.mktemp("world")
  data = root / "data"
  records = [prist_files.record(img_id=IMAGES[i % 3]) for i in range(8)]
  prist_files.write(data, records, split="train")
  prist_files.write(data, records[:4], split="val")
  for seed, name in enumerate(IMAGES[1:], 1):
    picture = prist_files.encode(prist_files.photo(seed=seed))
    (data / "images" / name).write_bytes(picture)
    shutil.copy(data / "masks/a.json", (data / "masks" / name).with_suffix(".json"))
  path = root / "config.py"
  path.write_text(CONFIG.format(overrides=MICRO, folder=str(data)))
  assert write(path, root / "cache") == 0
  return path, root / "cache"


def make(path, folder, **fields):
  config = config_file.load(str(path))
  for name, value in fields.items():
    config_file.override(config, name.replace("__", "."), str(value))
  config = run_config.RunConfig.from_config_dict(config)
  return task.make_task(config, workdir.Workdir(folder))


def copy_of(cache, tmp_path):
  return shutil.copytree(cache, tmp_path / "cache")


def test_the_losses_are_those_of_the_encoders_rounded_to_bfloat16(world, tmp_path):
  path, cache = world
  plain = make(path, tmp_path)
  cached = next(make(path, tmp_path, data__cache=cache).batches)
  pixels = next(plain.batches)
  assert not {"image_sam", "image_aux"} & set(cached)

  def compare(pixels, cached):
    params = plain.init(jax.random.key(0))
    rounded = encode(plain.objective.model, tuple(FEATURES), params, pixels)
    batches = (pixels, pixels | rounded, cached)
    return rounded, [plain.objective.sums(params, b, None)[0] for b in batches]

  # The quickest compilation: this runs once.
  lowered = jax.jit(compare).lower(pixels, cached)
  program = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
  features, (exact, rounded, found) = jax.device_get(program(pixels, cached))
  for name, value in features.items():
    value, stored = (np.asarray(x, np.float32) for x in (value, cached[name]))
    # Another program: now and then a value falls on the other side of a rounding.
    np.testing.assert_allclose(stored, value, rtol=2**-7, atol=1e-5)
    assert np.mean(stored == value) > 0.99
  for name in exact:
    np.testing.assert_allclose(found[name], rounded[name], rtol=1e-3)
    np.testing.assert_allclose(found[name], exact[name], rtol=2e-2)


def test_a_record_of_zero_weight_has_features_of_zero(world, tmp_path):
  path, cache = world
  made = make(path, tmp_path, data__cache=cache, data__pack=1)
  example = made.batches.examples[-1]
  assert not example["loss_mask"].any() and not example["sam_features"].any()
  assert example.keys() == made.batches.examples[0].keys()


def test_other_weights_are_refused(world, tmp_path):
  path, cache = world
  made = make(path, tmp_path, data__cache=cache, seed=1)
  mesh = mesh_lib.make_mesh(made.config.mesh)
  with jax.set_mesh(mesh):
    _, params = encoder_params(made, mesh)
    frozen = unflatten_dict(params, sep="/")
    with pytest.raises(UserError, match=r"other weights: (clip|conv|sam|mining|proj)"):
      check(made.features, made.config, frozen)


def test_the_weights_it_was_made_with_are_taken(world, tmp_path):
  path, cache = world
  made = make(path, tmp_path, data__cache=cache)
  mesh = mesh_lib.make_mesh(made.config.mesh)
  with jax.set_mesh(mesh):
    shapes, parts = plan.make_plan(made, mesh)
    state = initial_state.load(made, shapes, parts.tx)
    assert check(made.features, made.config, state.frozen) is None


def test_another_view_is_refused(world, tmp_path):
  path, cache = world
  made = make(path, tmp_path, data__cache=cache, data__view="center_crop")
  with pytest.raises(UserError, match="data.view letterbox, this run has center_crop"):
    check(made.features, made.config, {})


def test_tokens_made_of_sam_are_cached_and_are_of_that_encoder_only(world, tmp_path):
  path, shared = world[0], tmp_path / "shared"
  assert write(path, shared, "--config.model.encoder=shared") == 0
  made = make(path, tmp_path / "a", data__cache=shared, model__encoder="shared")
  cached = next(made.batches)
  assert {"sam_features", "image_tokens"} <= set(cached)
  assert cached["image_tokens"].any() and not {"image_sam", "image_aux"} & set(cached)
  other = make(path, tmp_path / "b", data__cache=shared)
  with pytest.raises(UserError, match="made with encoder shared, this run has None"):
    check(other.features, other.config, {})


def test_a_view_without_pixels_is_not_read_beside_a_cache(world, tmp_path, monkeypatch):
  options = (
    "--config.model.encoder=sam_only",
    "--config.trainable=lora_heads+projector",
  )
  assert write(world[0], tmp_path / "c", *options) == 0
  made = make(
    world[0], tmp_path / "a", data__cache=tmp_path / "c", model__encoder="sam_only",
    trainable="lora_heads+projector",
  )  # fmt: skip
  monkeypatch.setattr(examples, "make_views", None)
  cached = next(made.batches)
  assert cached["sam_features"].any() and cached["image_aux"].shape[1:] == (0, 0, 3)
  assert "image_tokens" not in cached


def test_what_sam_makes_is_not_cached_when_sam_trains():
  trained = ["sam/encoder/neck/conv1/kernel"]
  assert cacheable(trained) == ["image_tokens"]
  assert cacheable(trained, "shared") == []


def test_a_changed_image_is_named(world, tmp_path):
  path, cache = world
  made = make(path, tmp_path, data__cache=cache)
  other = prist_files.encode(prist_files.photo(seed=9))
  with pytest.raises(UserError, match="image b.png is not the one that was cached"):
    made.features.views(other, "b.png")


def test_images_that_were_not_cached_are_counted(world):
  with pytest.raises(UserError, match="lacks 1 images .* first is z.png"):
    FeatureCache(world[1]).check_images([*IMAGES, "z.png"])


@pytest.mark.parametrize("name", ["part-00001.json", "part-00000.array_record"])
def test_a_missing_file_is_one_line(world, tmp_path, name):
  folder = copy_of(world[1], tmp_path)
  (folder / name).unlink()
  with pytest.raises(UserError, match=f"missing.*{name}") as error:
    FeatureCache(folder)
  assert "\n" not in str(error.value)


def test_a_cut_file_is_one_line(world, tmp_path):
  folder = copy_of(world[1], tmp_path)
  data = folder / "part-00000.array_record"
  data.write_bytes(data.read_bytes()[:-100])
  with pytest.raises(UserError, match="part-00000.array_record has"):
    FeatureCache(folder)


def test_no_cache_says_how_to_make_one(tmp_path):
  with pytest.raises(UserError, match="miras data cache"):
    FeatureCache(tmp_path)


def test_a_stopped_command_goes_on(world, tmp_path):
  path, cache = world
  folder = copy_of(cache, tmp_path)
  whole = folder / "part-00000.array_record"
  before = whole.stat().st_mtime_ns
  for name in ("part-00001.json", "cache.json"):
    (folder / name).unlink()
  (folder / "part-00001.tmp").write_bytes(b"half")
  assert write(path, folder) == 0
  assert whole.stat().st_mtime_ns == before
  manifest = json.loads((folder / "cache.json").read_text())
  assert manifest == json.loads((cache / "cache.json").read_text())
  name = "part-00001.array_record"
  assert len((folder / name).read_bytes()) == len((cache / name).read_bytes())


def test_a_folder_of_another_cache_is_refused(world):
  path, cache = world
  with pytest.raises(UserError, match="other weights, settings, images"):
    write(path, cache, "--config.seed=3")


def test_a_run_that_trains_all_has_nothing_to_cache(world, tmp_path):
  with pytest.raises(UserError, match="trainable='full'.*nothing to cache"):
    write(world[0], tmp_path / "c", "--config.trainable=full")


def test_what_a_suffix_trains_is_not_cached(world, tmp_path):
  names = cacheable(["clip/layer_01/mlp/fc1/kernel"])
  assert names == ["sam_features"]
