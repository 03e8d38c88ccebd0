"""`miras convert` at tiny size: in, out, of parts, stopped, verified."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from miras_jax.checkpoint import command as checkpoint_command
from miras_jax.config.overrides import with_overrides
from miras_jax.convert import command
from miras_jax.convert import folder as converted
from miras_jax.convert.files import stream
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.sources import Source
from miras_jax.errors import UserError
from miras_jax.inference.demo import MODEL as SHIPPED
from tests.convert import checkpoints, golden_source
from tests.convert.checkpoints import CFG, SET
from tests.convert.folders import (
  WIDTH,
  assert_same,
  config_of,
  convert,
  listing,
  read_folder,
  union,
)
from tests.shared_data import GOLDEN, needs_golden

# -- in and out -----------------------------------------------------------------------


def test_ours_holds_the_published_numbers(ours, flat):
  params, missing = converted.load_params(ours)
  assert missing == []
  assert_same(flatten_dict(params, sep="/"), flat)


def test_in_out_in_is_bit_identical(ours, published, tmp_path):
  convert(f"--src={ours}", f"--dst={tmp_path / 'out'}", "--to=miras")
  assert_same(read_folder(tmp_path / "out"), read_folder(published))
  convert(f"--src={tmp_path / 'out'}", f"--dst={tmp_path / 'in'}", "--tokenizer=none")
  first, again = (converted.load_params(p)[0] for p in (ours, tmp_path / "in"))
  assert_same(
    flatten_dict(again, sep="/"), jax.device_get(flatten_dict(first, sep="/"))
  )


def test_a_projector_of_one_layer_goes_in_and_out_bit_identical(tmp_path):
  cfg = with_overrides(CFG, {"convnext": None, "projector": "linear"})
  state = checkpoints.state_dict("miras", checkpoints.params(cfg))
  path = checkpoints.write(tmp_path / "lisa", state, cfg=cfg)
  fields = [field for field in SET if "convnext" not in field]
  command.main([f"--src={path}", f"--dst={tmp_path / 'ours'}",
                "--from=lisa", "--tokenizer=none", *fields])  # fmt: skip
  assert config_of(tmp_path / "ours").projector == "linear"
  command.main([f"--src={tmp_path / 'ours'}", f"--dst={tmp_path / 'out'}",
                "--to=miras"])  # fmt: skip
  found = read_folder(tmp_path / "out")
  assert found["model.mm_projector.weight"].shape == (WIDTH, cfg.clip.width)
  assert_same(found, state)


@needs_golden
def test_the_golden_state_dict_returns_bit_identical(tmp_path):
  ours, out = golden_source.convert(tmp_path, "none"), tmp_path / "out"
  command.main([f"--src={ours}", f"--dst={out}", "--to=miras"])
  assert_same(read_folder(out), load_file(GOLDEN / "state_dict.safetensors"))


def test_the_converted_folder_is_a_run_with_its_tokenizer(ours):
  config, _, tokenizer, step = converted.load_run(ours)
  assert config.model.build() == CFG
  assert (config.model.dtype, config.data.view, step) == ("bfloat16", "center_crop", 0)
  from input_pipeline.tokenizer import load_tokenizer

  assert load_tokenizer(tokenizer).ids.seg == 295


def test_leaves_are_placed_on_a_mesh_in_another_dtype(ours, flat):
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
  path = "llm/layers/mlp/gate_proj/kernel"
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", "b"))
  shapes = {
    k: jax.ShapeDtypeStruct(
      x.shape, np.float32, sharding=sharding if k == path else None
    )
    for k, x in flat.items()
  }
  params, _ = converted.load_params(ours, unflatten_dict(shapes, sep="/"))
  leaf = flatten_dict(params, sep="/")[path]
  assert leaf.sharding == sharding and leaf.dtype == np.float32
  np.testing.assert_array_equal(np.asarray(leaf), flat[path].astype(np.float32))


def test_fresh_adapters_may_be_missing_and_nothing_else(ours):
  shapes = {
    "llm/layers/attn/q_proj/lora_a": (2, WIDTH, 2), "llm/final_norm/scale": (WIDTH,)
  }  # fmt: skip
  wanted = {k: jax.ShapeDtypeStruct(s, np.float32) for k, s in shapes.items()}
  tree = converted.FolderTree(ours)
  found = converted._check(tree, wanted, (r"lora_[ab]$",))
  assert found == ["llm/layers/attn/q_proj/lora_a"]
  with pytest.raises(UserError, match="ours: no 'llm/layers/attn/q_proj/lora_a'"):
    converted._check(tree, wanted, ())
  tree.close()


def test_small_shards_hold_the_same(ours, flat, tmp_path):
  dst = tmp_path / "small"
  convert(f"--src={ours}", f"--dst={dst}", "--shard-gb=0.0001")
  assert len(list((dst / "params").glob("*.safetensors"))) > 5
  assert_same(flatten_dict(converted.load_params(dst)[0], sep="/"), flat)


def test_another_dtype_on_request(ours, flat, tmp_path):
  convert(f"--src={ours}", f"--dst={tmp_path / 'f32'}", "--dtype=float32")
  found = flatten_dict(converted.load_params(tmp_path / "f32")[0], sep="/")
  assert_same(found, {k: x.astype(np.float32) for k, x in flat.items()})


def test_a_training_folder_becomes_published_names(run, tmp_path, published):
  convert(f"--src={run}", f"--dst={tmp_path / 'out'}", "--to=miras")
  assert_same(read_folder(tmp_path / "out"), read_folder(published))


def test_a_small_export_is_the_step_in_bfloat16(run, tmp_path, flat):
  out = tmp_path / "small"
  shutil.copytree(SHIPPED / "tokenizer", run / "tokenizer")
  checkpoint_command.main(["export", str(run), f"--out={out}", "--small"])
  found = flatten_dict(converted.load_params(out)[0], sep="/")
  assert_same(found, {k: x.astype(jax.numpy.bfloat16) for k, x in flat.items()})


def test_an_export_without_a_folder_is_refused(run):
  with pytest.raises(UserError, match="--out"):
    checkpoint_command.main(["export", str(run)])


@pytest.fixture(scope="module")
def start(tmp_path_factory, parts):
  folder = tmp_path_factory.mktemp("start") / "start"
  convert(union(parts), f"--dst={folder}", "--new=projector,mining,seg_prompt",
          "--set=seg_prompt.alignment=none")  # fmt: skip
  return flatten_dict(converted.load_params(folder)[0], sep="/")


def test_parts_become_a_start_for_stage_one(start, flat):
  assert start.keys() == flat.keys()
  taken = {
    k: x for k, x in flat.items() if k.startswith(("clip/", "convnext/", "sam/"))
  }
  assert_same({k: start[k] for k in taken}, taken)
  assert np.asarray(start["projector/fc1/kernel"]).std() > 0


@pytest.mark.parametrize("path, axis", [("embed/embedding", 0), ("lm_head/kernel", 1)])
def test_rows_of_added_tokens_are_the_mean_of_the_old(start, flat, path, axis):
  found = np.asarray(start[f"llm/{path}"])
  rows = np.moveaxis(found, axis, 0)
  old = np.moveaxis(flat[f"llm/{path}"], axis, 0)[:295]
  assert rows.shape == (300, WIDTH)
  np.testing.assert_array_equal(rows[:295], old)
  mean = old.astype(np.float32).mean(0).astype(old.dtype)
  np.testing.assert_array_equal(rows[295:], np.stack([mean] * 5))


def test_what_no_source_has_is_named_with_the_remedy(parts, tmp_path):
  dst = f"--dst={tmp_path / 'x'}"
  with pytest.raises(UserError, match="no source has our mining/.*--new=.*mining"):
    convert(union(parts), dst, "--new=seg_prompt,projector")
  with pytest.raises(UserError, match="no source has our sam/.*add SAM to --src"):
    convert(union(parts[:3]), dst, "--new=projector,mining,seg_prompt")


def test_one_part_twice_is_an_error(parts, tmp_path):
  with pytest.raises(UserError, match="sam.pth: .* are both our"):
    convert(union([*parts, parts[3]]), f"--dst={tmp_path / 'x'}",
            "--new=projector,mining,seg_prompt")  # fmt: skip


# -- stopped, verified, dry -----------------------------------------------------------


def test_a_stopped_run_goes_on(published, ours, tmp_path, monkeypatch):
  dst, reads = tmp_path / "dst", []
  plain = Source.read

  def read(self, key, *, stop_at=150):
    reads.append(key)
    if len(reads) == stop_at:
      raise KeyboardInterrupt
    return plain(self, key)

  monkeypatch.setattr(Source, "read", read)
  with pytest.raises(KeyboardInterrupt):
    convert(f"--src={published}", f"--dst={dst}")
  assert not dst.exists()
  convert(f"--src={published}", f"--dst={dst}")
  again = reads[150:]
  assert len(set(reads[:149]) & set(again)) <= 2  # of a stack of two layers
  files = stream.read_manifest(ours)["files"]
  assert stream.read_manifest(dst)["files"] == files
  assert listing(tmp_path) == ["dst", *(f"dst/{n}" for n in listing(dst))]


def test_what_a_stopped_run_left_is_not_trusted(published, ours, tmp_path, monkeypatch):
  dst, plain = tmp_path / "dst", Source.read
  calls = iter(range(10**6))

  def read(self, key):
    if next(calls) == 150:
      raise KeyboardInterrupt
    return plain(self, key)

  monkeypatch.setattr(Source, "read", read)
  with pytest.raises(KeyboardInterrupt):
    convert(f"--src={published}", f"--dst={dst}")
  (written,) = (tmp_path / ".dst.partial" / "params").glob("*")
  data = bytearray(written.read_bytes())
  data[len(data) // 2] ^= 1
  written.write_bytes(data)
  convert(f"--src={published}", f"--dst={dst}")
  assert stream.read_manifest(dst)["files"] == stream.read_manifest(ours)["files"]


def test_verify_finds_a_flipped_bit(ours, tmp_path):
  folder = shutil.copytree(ours, tmp_path / "copy")
  assert command.main([f"--verify={folder}"]) == 0
  path = folder / "params" / "model.safetensors"
  data = bytearray(path.read_bytes())
  data[-5] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match="model.safetensors: damaged: SHA-256"):
    command.main([f"--verify={folder}"])


def test_a_config_that_was_edited_beside_its_weights_is_refused(ours, tmp_path):
  """Its weights may have no place in what it says, or be passed over."""
  folder = shutil.copytree(ours, tmp_path / "copy")
  path = folder / "config.json"
  fields = json.loads(path.read_text())
  fields["model"]["state"] = "dense"
  path.write_text(json.dumps(fields))
  with pytest.raises(
    UserError, match=r"config.json: not as it was written.*put it back"
  ):
    converted.load_run(folder)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
  import tracemalloc

  def arrays(i):
    yield np.full((512, 1024), i, np.float32).T

  targets = [
    stream.Target(str(i), (1024, 512), np.float32, lambda i=i: arrays(i))
    for i in range(40)
  ]
  shards = stream.plan_shards(targets)
  tracemalloc.start()
  stream.write_folder(tmp_path / "x", shards, {}, identity=1, progress=False)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 6 * targets[0].info.nbytes < shards[0].size / 5
  np.testing.assert_array_equal(read_folder(tmp_path / "x")["7"][0], np.full(512, 7))


def test_a_dry_run_prints_every_key_and_writes_nothing(published, tmp_path, capsys):
  convert(f"--src={published}", "--dry-run", f"--dst={tmp_path / 'x'}")
  lines = capsys.readouterr().out.splitlines()
  keys = [line.split()[0] for line in lines[:-1]]
  assert sorted(keys) == sorted(read_folder(published))
  count = sum(int(np.prod(s)) for s in expected_shapes(CFG).values())
  assert f"{count:,} parameters, {2 * count / 1e9:,.2f} GB" in lines[-1]
  assert listing(tmp_path) == []


def test_a_dry_run_of_a_size_needs_no_weights(capsys):
  command.main(["--dry-run", "--model=tiny"])
  lines = capsys.readouterr().out.splitlines()
  shapes = [
    json.loads(line[line.index("[") : line.index("]") + 1]) for line in lines[:-1]
  ]
  total = sum(int(np.prod(shape)) for shape in shapes)
  assert f"{total:,} parameters" in lines[-1]
