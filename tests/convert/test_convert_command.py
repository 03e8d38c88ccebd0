"""`miras convert` at tiny size: in, out, merged, stopped, damaged."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from miras_jax.config.model import with_overrides
from miras_jax.convert import command
from miras_jax.convert import folder as converted
from miras_jax.convert.files import stream, torch_write
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.sources import Source
from miras_jax.errors import UserError
from tests.convert import checkpoints, golden_source
from tests.convert.checkpoints import CFG, SET
from tests.shared_data import GOLDEN, needs_golden

WIDTH, MLP_WIDTH = CFG.llama.width, CFG.llama.mlp_width
LORA = {"llama.lora_rank": 2, "llama.lora_targets": ("q_proj", "v_proj")}


def convert(*args):
  return command.main([*map(str, args), *SET])


@pytest.fixture(scope="module")
def flat():
  return checkpoints.params(dtype=ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def published(tmp_path_factory, flat):
  """A MIRAS checkpoint in two files with its tokenizer."""
  folder = tmp_path_factory.mktemp("published") / "miras"
  checkpoints.write(folder, checkpoints.state_dict("miras", flat), shards=2)
  control = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")
  return checkpoints.tokenizer(folder, control=control, size=300)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, published):
  folder = tmp_path_factory.mktemp("converted") / "ours"
  convert("--from=miras", f"--src={published}", f"--dst={folder}")
  return folder


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
  found = converted._check(tree, wanted, (r"lora_[ab]$",), strict=False)
  assert found == ["llm/layers/attn/q_proj/lora_a"]
  with pytest.raises(UserError, match="ours: no 'llm/layers/attn/q_proj/lora_a'"):
    converted._check(tree, wanted, (), strict=False)
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


def test_a_training_folder_becomes_published_names(tmp_path, ours, published, flat):
  import jax.numpy as jnp
  import optax

  from miras_jax.checkpoint import store
  from miras_jax.models import trees
  from miras_jax.training import step as train_step

  params = unflatten_dict({k: jnp.asarray(x) for k, x in flat.items()}, sep="/")
  trainable, frozen = trees.split_by_name(params, "lora_heads")
  state = train_step.create_state(trainable, frozen, optax.sgd(0.1), seed=0)
  run = tmp_path / "run"
  with store.Checkpoints(run, keep=1) as checkpoints:
    checkpoints.save_frozen(frozen)
    checkpoints.save(4, state, data_state={}, metrics={})
  shutil.copyfile(ours / "config.json", run / "config.json")
  convert(f"--src={run}", f"--dst={tmp_path / 'out'}", "--to=miras")
  assert_same(read_folder(tmp_path / "out"), read_folder(published))


# -- a union of parts -----------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory, flat):
  """Vicuna with 295 rows and no control token, CLIP as .bin, ConvNeXt, SAM as .pth."""
  root = tmp_path_factory.mktemp("parts")
  llm = checkpoints.state_dict("llama", flat)
  for key in ("model.embed_tokens.weight", "lm_head.weight"):
    llm[key] = llm[key][:295]
  cfg = with_overrides(CFG, {"llama.vocab_size": 295})
  checkpoints.write(root / "vicuna", llm, cfg=cfg, shards=2)
  checkpoints.tokenizer(root / "vicuna", size=295)
  towers = {"clip": ".bin", "convnext": ".safetensors"}
  for kind, suffix in towers.items():
    state = checkpoints.state_dict(kind, flat)
    checkpoints.write(root / kind, state, suffix=suffix, settings={})
  torch_write.save(root / "sam.pth", checkpoints.state_dict("sam", flat))
  return [root / "vicuna", root / "clip", root / "convnext", root / "sam.pth"]


def union(parts):
  return "--src=" + ",".join(map(str, parts))


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


# -- adapters -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
  """A PEFT folder for the published checkpoint, and its numbers."""
  flat = checkpoints.params(with_overrides(CFG, LORA), seed=1)
  folder = tmp_path_factory.mktemp("adapter")
  state, arrays = {}, {k: x for k, x in flat.items() if "lora_" in k}
  for path, array in arrays.items():
    name, letter = path.split("/")[-2], path[-1].upper()
    for i, layer in enumerate(array):
      key = f"base_model.model.model.layers.{i}.self_attn.{name}.lora_{letter}.weight"
      state[key] = np.ascontiguousarray(layer.T)
  save_file(state, folder / "adapter_model.safetensors")
  settings = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  return folder, arrays, state


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, published, adapter):
  folder = tmp_path_factory.mktemp("adapted") / "adapted"
  convert(f"--src={published},{adapter[0]}", f"--dst={folder}")
  return folder


def test_adapters_are_kept_beside_their_kernels(adapted, adapter, flat):
  found = flatten_dict(converted.load_params(adapted)[0], sep="/")
  assert_same(found, flat | adapter[1])
  cfg = config_of(adapted)
  assert (cfg.llama.lora_rank, cfg.llama.lora_alpha) == (2, 6.0)


def test_adapters_return_as_peft_wrote_them(adapted, adapter, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'peft'}", "--to=peft")
  assert_same(read_folder(tmp_path / "peft"), adapter[2])
  settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
  assert (settings["r"], settings["lora_alpha"]) == (2, 6.0)
  assert settings["target_modules"] == ["q_proj", "v_proj"]


def test_a_checkpoint_with_adapters_keeps_its_training_names(adapted, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'training'}", "--to=miras")
  state = read_folder(tmp_path / "training")
  key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
  assert key in state and all(k.startswith("base_model.model.") for k in state)
  convert(f"--src={tmp_path / 'training'}", f"--dst={tmp_path / 'in'}",
          "--tokenizer=none")  # fmt: skip
  first, again = (converted.load_params(f)[0] for f in (adapted, tmp_path / "in"))
  assert_same(
    flatten_dict(again, sep="/"), jax.device_get(flatten_dict(first, sep="/"))
  )


def test_merged_adapters_are_in_the_kernels(adapted, adapter, flat, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'merged'}", "--merge-lora")
  found = flatten_dict(converted.load_params(tmp_path / "merged")[0], sep="/")
  expected = dict(flat)
  for name in ("q_proj", "v_proj"):
    path = f"llm/layers/attn/{name}"
    a, b = adapter[1][f"{path}/lora_a"], adapter[1][f"{path}/lora_b"]
    kernel = flat[f"{path}/kernel"]
    merged = kernel.astype(np.float32) + 6 / 2 * (a @ b)
    expected[f"{path}/kernel"] = merged.astype(kernel.dtype)
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_allclose(
      np.asarray(found[key], np.float32),
      array.astype(np.float32),
      rtol=0.01,
      err_msg=key,
    )
  assert config_of(tmp_path / "merged").llama.lora_rank == 0


def test_merging_without_adapters_is_an_error(ours, tmp_path):
  with pytest.raises(UserError, match="no adapters"):
    convert(f"--src={ours}", f"--dst={tmp_path / 'x'}", "--merge-lora")


def test_adapters_of_another_rank_name_both(published, adapter, tmp_path):
  message = rf"lora_A\.weight' has shape \(2, {WIDTH}\).*\({WIDTH}, 4\)"
  with pytest.raises(UserError, match=message):
    convert(f"--src={published},{adapter[0]}", f"--dst={tmp_path / 'x'}",
            "--set=llama.lora_rank=4")  # fmt: skip


def test_the_language_model_alone_is_a_llama_with_its_adapters_merged(
  adapted, published, tmp_path
):
  convert(
    f"--src={adapted}", f"--dst={tmp_path / 'hf'}", "--to=hf", "--shard-gb=0.0001"
  )
  state = {}
  index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
  for name in set(index["weight_map"].values()):
    state |= load_file(tmp_path / "hf" / name)
  llm = {k for k in read_folder(published) if k.startswith(("model.layers", "lm_head"))}
  assert state.keys() == llm | {"model.embed_tokens.weight", "model.norm.weight"}
  settings = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert settings["architectures"] == ["LlamaForCausalLM"]
  assert (settings["hidden_size"], settings["rms_norm_eps"]) == (WIDTH, 1e-6)
  assert (tmp_path / "hf" / "tokenizer.json").is_file()


# -- what does not fit ----------------------------------------------------------------


def listing(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def assert_refused(tmp_path, message, *args):
  """One UserError and not a file of it left."""
  before = listing(tmp_path)
  with pytest.raises(UserError, match=message) as caught:
    convert(*args, f"--dst={tmp_path / 'dst'}")
  assert "\n" not in str(caught.value)
  assert listing(tmp_path) == before


def copy(published, tmp_path):
  return shutil.copytree(published, tmp_path / "copy")


def test_a_checkpoint_of_another_width_names_both_shapes(published, tmp_path):
  folder = copy(published, tmp_path)
  settings = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 24}))
  message = rf"copy/model-0000.*'model\.layers\.\d\.mlp\..*{MLP_WIDTH}.*24"
  assert_refused(tmp_path, message,
                 f"--src={folder}")  # fmt: skip


def test_a_missing_key_is_named(published, tmp_path):
  folder = copy(published, tmp_path)
  state = read_folder(folder)
  for path in folder.glob("model*"):
    path.unlink()
  del state["model.layers.1.mlp.up_proj.weight"]
  save_file(state, folder / "model.safetensors")
  assert_refused(tmp_path, r"no source has our llm/layers/mlp/up_proj/kernel\[1\]",
                 f"--src={folder}")  # fmt: skip


def test_a_truncated_file_leaves_nothing(published, tmp_path):
  folder = copy(published, tmp_path)
  path = folder / "model-00002-of-00002.safetensors"
  path.write_bytes(path.read_bytes()[:-1000])
  assert_refused(tmp_path, "00002-of-00002.safetensors: truncated", f"--src={folder}")


def test_damage_that_shows_late_leaves_nothing(parts, flat, tmp_path):
  sam = tmp_path / "sam.pth"
  data = bytearray(parts[3].read_bytes())
  weight = flat["sam/decoder/mask_tokens"].tobytes()
  data[data.index(weight) + 5] ^= 1
  sam.write_bytes(data)
  assert_refused(tmp_path, r"sam.pth: mask_decoder.mask_tokens.weight: .*CRC-32",
                 union([*parts[:3], sam]),
                 "--new=projector,mining,seg_prompt")  # fmt: skip


def test_a_tokenizer_that_splits_seg_is_an_error(published, tmp_path):
  checkpoints.tokenizer(tmp_path / "plain", size=295)
  assert_refused(tmp_path, r"plain: the tokenizer splits '\[SEG\]' into the 5 ids",
                 f"--src={published}", f"--tokenizer={tmp_path / 'plain'}")  # fmt: skip


def test_a_tokenizer_of_another_model_is_an_error(parts, tmp_path):
  checkpoints.tokenizer(tmp_path / "big", size=500)
  assert_refused(tmp_path, "big: the tokenizer has 500 ids, the embedding 295 rows",
                 union(parts), f"--tokenizer={tmp_path / 'big'}",
                 "--new=projector,mining,seg_prompt")  # fmt: skip


def test_whole_numbers_are_no_weights(published, tmp_path):
  folder = copy(published, tmp_path)
  path = folder / "model-00001-of-00002.safetensors"
  state = load_file(path)
  key = next(iter(state))
  save_file(state | {key: np.zeros(state[key].shape, np.int8)}, path)
  assert_refused(tmp_path, f"{key}' has dtype int8, want floating", f"--src={folder}")


def test_a_destination_that_exists_is_kept(ours, published):
  with pytest.raises(UserError, match="ours exists already"):
    convert(f"--src={published}", f"--dst={ours}")


@pytest.mark.parametrize(
  "args, message",
  [
    ([], "--src=PATH"),
    (["--src=nowhere"], "--dst=DIR is missing"),
    (["--src=nowhere", "--dst=x"], "nowhere: no such file"),
    (["--src=a,b,c", "--dst=x", "--from=clip,sam"], "names 2 kinds for 3 sources"),
    (["--srk=nowhere"], "did you mean '--src'"),
    (["--dry-run", "--set=clip.wdith=4"], "no field 'clip.wdith'"),
  ],
)
def test_a_wrong_command_line_is_one_line(args, message):
  with pytest.raises(UserError, match=message):
    command.main(args)


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
