"""`miras parity`: the public folder is green, other folders work, faults are named."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax import cli
from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import export
from miras_jax.errors import UserError
from miras_jax.parity import command, language, towers
from miras_jax.parity.folder import Folder, miras_config
from miras_jax.parity.port import Port
from miras_jax.parity.rows import find_segs, splice
from miras_jax.parity.table import EXACT, Table
from tests import golden_folder
from tests.shared_data import GOLDEN, needs_golden

PUBLIC_FILES = ("config.json", "state_dict.safetensors", "inputs.npz", "outputs.npz")


@pytest.fixture(scope="session")
def other(tmp_path_factory):
  """A Folder of other sizes, without any reference."""
  return golden_folder.make(tmp_path_factory.mktemp("parity") / "golden")


@pytest.fixture
def public(tmp_path):
  """A copy of the public folder's model files, to be damaged."""
  for name in PUBLIC_FILES:
    shutil.copy(GOLDEN / name, tmp_path / name)
    (tmp_path / name).chmod(0o644)
  return tmp_path


def only(monkeypatch, *cases):
  """Runs these cases of the model and none of the data."""
  monkeypatch.setattr(command, "MODEL_CASES", tuple((case, ()) for case in cases))
  monkeypatch.setattr(command.data, "compare", lambda folder, table: None)


def rewrite(path, change):
  """Applies `change` to the dict of arrays of a .safetensors or .npz file."""
  if path.suffix == ".npz":
    with np.load(path) as file:
      arrays = dict(file)
  else:
    arrays = load_file(path)
  change(arrays)
  if path.suffix == ".npz":
    np.savez(path, **arrays)
  else:
    save_file(arrays, path)


# The public folder


@needs_golden
@pytest.mark.slow
def test_the_public_folder_is_green_and_every_result_is_written(tmp_path, capsys):
  out = tmp_path / "ours.npz"
  assert cli.main(["parity", f"--golden={GOLDEN}", f"--out={out}"]) == 0
  printed = capsys.readouterr().out
  assert "FAIL" not in printed
  ours = np.load(out)
  with np.load(GOLDEN / "outputs.npz") as golden:
    missing = {
      name
      for name in golden.files
      if name not in ours.files and name not in command.GIVEN
    }
    assert missing == {"bf16/low_res_masks_text_multi", "bf16/iou_text_multi"}
    for name in ("llm/logits", "masks/pred_logits_1", "evaluate/corrected_pred_masks"):
      np.testing.assert_allclose(ours[name], golden[name], atol=1e-4)
  grads = load_file(GOLDEN / "grads_stage2.safetensors")
  assert {f"grads_stage2/{name}" for name in grads} <= set(ours.files)


@needs_golden
def test_a_perturbed_weight_fails_and_its_tensors_are_named(
  public, monkeypatch, capsys
):
  def perturb(state):
    state["model.mm_projector.2.bias"] += 1e-3

  only(monkeypatch, towers)
  assert cli.main(["parity", f"--golden={public}"]) == 0
  rewrite(public / "state_dict.safetensors", perturb)
  assert cli.main(["parity", f"--golden={public}"]) == 1
  lines = capsys.readouterr().out.splitlines()
  failed = {line.split()[-1] for line in lines if line.startswith("FAIL")}
  assert failed == {"image_tokens", "grid/image_tokens"}
  assert lines[-1].endswith("past it: image_tokens, grid/image_tokens")


# A folder of other sizes


def test_its_config_is_read_and_nothing_of_the_public_one(other):
  cfg = miras_config(other, lora=True, alignment="published")
  assert (cfg.llama.num_heads, cfg.llama.num_kv_heads, cfg.llama.depth) == (4, 2, 3)
  assert cfg.llama.rope_scaling.factor == 2.0 and cfg.llama.qkv_bias
  assert cfg.llama.lora_targets == ("o_proj", "q_proj", "up_proj")
  assert (cfg.clip.grid, cfg.clip.select_layer) == (3, -3)
  assert cfg.convnext.target_grid // cfg.clip.grid == 2
  assert cfg.sam_encoder.global_layers == (0, 2) and cfg.sam_encoder.grid == 10
  assert cfg.seg_prompt.num_heads == 2


def test_its_weights_go_in_and_out_bit_identical(other):
  port = Port(other)
  cfg, params = port.lora_params()
  assert cfg.llama.lora_rank == 3
  state = other.tensors("state_dict.safetensors")
  adapters = other.tensors("lora_adapter.safetensors")
  found = export(params, miras.TRAINING)
  wanted = {f"base_model.model.{k}": v for k, v in state.items()} | adapters
  assert sorted(found) == sorted(wanted)
  for key, want in wanted.items():
    np.testing.assert_array_equal(found[key], want, err_msg=key)


@pytest.mark.slow
def test_every_case_runs_on_it_and_its_own_numbers_pass(other, tmp_path):
  table = command.run(other)
  assert not table.failures
  assert all(row.error is None for row in table.rows)  # nothing to compare with
  shapes = {name: x.shape for name, x in table.computed.items()}
  assert shapes["clip/hidden_4"] == (3, 10, 24)
  assert shapes["aux/concat"] == (3, 40, 6, 6)
  assert shapes["mining/key"] == (3, 9, 4, 24)
  assert shapes["llm/hidden_3"] == (3, 21, 40) and shapes["llm/logits"] == (3, 21, 61)
  assert shapes["sam/block_2"] == (2, 10, 10, 24)
  assert shapes["decoder/low_res_masks"] == (3, 1, 40, 40)
  assert shapes["masks/pred_logits_2"] == (1, 64, 40)
  assert shapes["obj/pred_logits_0"] == (2, 50, 70)
  assert shapes["prompt_alone/all/low_res_multi"] == (2, 3, 40, 40)
  assert all(np.isfinite(x).all() for x in table.computed.values())

  # The same numbers as a reference: green, and exit 1 once one of them is moved.
  copy = tmp_path / "golden"
  shutil.copytree(other.path, copy)
  golden = {k: v for k, v in table.computed.items() if k.startswith("clip/")}
  np.savez(copy / "outputs.npz", **golden)
  again = Table(Folder(copy))
  towers.clip(Port(Folder(copy)), again)
  assert len(again.rows) == len(golden) and not again.failures


# Faults of a folder


@pytest.mark.parametrize(
  "file, damage, match",
  [
    ("config.json", lambda path: path.write_text("{"), "config.json: not JSON"),
    ("config.json", lambda path: path.unlink(), "config.json: no such file"),
    (
      "state_dict.safetensors",
      lambda path: path.write_bytes(path.read_bytes()[:-9]),
      "state_dict.safetensors: not a readable .safetensors",
    ),
    (
      "inputs.npz",
      lambda path: path.write_bytes(path.read_bytes()[:999]),
      "inputs.npz: not a readable .npz",
    ),
    (
      "inputs.npz",
      lambda path: rewrite(path, lambda x: x.pop("resize_list")),
      "inputs.npz: no key 'resize_list'",
    ),
    (
      "inputs.npz",
      lambda path: rewrite(path, lambda x: x.pop("labels")),
      "inputs.npz: no key 'labels'",
    ),
    (
      "state_dict.safetensors",
      lambda path: rewrite(path, lambda x: x.pop("model.norm.weight")),
      "state_dict.safetensors: no key .*looked for 'model.norm.weight'",
    ),
    (
      "state_dict.safetensors",
      lambda path: rewrite(path, lambda x: x.update(odd=x["model.norm.weight"])),
      "state_dict.safetensors: unknown key 'odd'",
    ),
  ],
)
def test_a_damaged_file_is_one_line_that_names_it(
  other, tmp_path, monkeypatch, file, damage, match
):
  copy = tmp_path / "golden"
  shutil.copytree(other.path, copy)
  damage(copy / file)
  only(monkeypatch)
  with pytest.raises(UserError, match=match):
    port_and_sizes(copy)


def port_and_sizes(path):
  """Loads everything, and reads the key that only full-size masks need."""
  port = Port(Folder(path))
  port.full_size(np.zeros((1, 40, 40), np.float32), 0)


@pytest.mark.parametrize(
  "key, value, match",
  [
    ("llm.hidden_size", None, "config.json: no key 'llm.hidden_size'"),
    ("llm.hidden_act", "gelu", "llm.hidden_act is 'gelu', this model has 'silu'"),
    ("llm.num_key_value_heads", 3, "config.json: self.num_heads=4"),
    ("convnext.target_size", [6, 7], "convnext.target_size 6x7 is not square"),
    ("lora.target_modules", ["model.layers.0.self_attn.q_proj"], "differ between"),
  ],
)
def test_a_config_that_cannot_be_is_one_line_that_names_the_key(
  tmp_path, key, value, match
):
  config = json.loads(json.dumps(golden_folder.CONFIG))
  part, name = key.split(".")
  if value is None:
    del config[part][name]
  else:
    config[part][name] = value
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=match):
    miras_config(Folder(tmp_path), lora=True)


def test_a_missing_folder_is_named():
  with pytest.raises(UserError, match="/no/where: no such folder"):
    cli.main(["parity", "--golden=/no/where"])


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path, capsys):
  (tmp_path / "config.json").write_text("{}")
  assert cli.main(["parity", f"--golden={tmp_path}"]) == 0
  out = capsys.readouterr().out
  assert "the model: the folder has no state_dict.safetensors, inputs.npz" in out
  assert "not reproduced: raster: no raster.json, raster.npz" in out


# Verdicts


@pytest.fixture
def table(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  np.savez(tmp_path / "outputs.npz", x=np.array([1.0, 2.0]), n=np.array([1, 2]))
  return Table(Folder(tmp_path))


@pytest.mark.parametrize(
  "ours, tolerance, passed",
  [
    ([1.0, 2.00009], 1e-4, True),
    ([1.0, 2.0002], 1e-4, False),
    ([1.0, np.nan], 1e-4, False),
    ([[1.0, 2.0]], 1e-4, False),
    ([1.0, 2.0], EXACT, True),
  ],
)
def test_a_tensor_passes_within_its_tolerance_and_in_its_shape(
  table, ours, tolerance, passed
):
  table.tensor("x", np.array(ours), tolerance)
  assert (not table.failures) == passed


@needs_golden
def test_the_decoder_in_int8_is_near_the_reference(monkeypatch):
  only(monkeypatch, language)
  table = command.run(Folder(GOLDEN), weights="int8")
  errors = {row.name: row.error for row in table.rows}
  assert not table.failures and 1e-3 < errors["llm/logits"] < 5e-2


@pytest.mark.parametrize("scale, passed", [(1.019, True), (1.021, False)])
def test_bfloat16_is_measured_against_the_norm(tmp_path, scale, passed):
  (tmp_path / "config.json").write_text("{}")
  np.savez(tmp_path / "outputs.npz", x=np.array([1.0, 2.0]))
  table = Table(Folder(tmp_path), "bfloat16")
  table.tensor("x", scale * np.array([1.0, 2.0]))
  assert (not table.failures) == passed


def test_integers_must_be_equal(table):
  table.tensor("n", np.array([1, 3]), EXACT)
  assert [row.name for row in table.failures] == ["n"]


def test_a_text_counts_the_characters_that_differ(table):
  table.text("same", "abc", "abc")
  table.text("other", "abXde", "abc")
  assert [row.error for row in table.rows] == [0, 3]
  assert [row.name for row in table.failures] == ["other"]


# Rows


IDS = np.array([[1, 9, -200, 5, 7, 8, 7, 0], [1, 7, 2, 0, 0, 0, 0, 0]])


def spliced(**options):
  return splice(
    IDS,
    np.where(IDS > 4, IDS, -100),
    IDS != 0,
    image_token=-200,
    num_tokens=3,
    **options,
  )


def test_the_image_takes_the_place_of_its_placeholder():
  rows = spliced()
  assert rows.tokens_BT[0].tolist() == [1, 9, 0, 0, 0, 5, 7, 8, 7]
  assert rows.image_slot_BT[0].tolist() == [-1, -1, 0, 1, 2, -1, -1, -1, -1]
  assert rows.labels_BT[0].tolist() == [-100, 9, -100, -100, -100, 5, 7, 8, 7]
  assert rows.mask_BT.sum(1).tolist() == [9, 3]


def test_left_padding_moves_the_rows_and_a_cut_takes_the_right_end():
  rows = spliced(side="left", max_length=5)
  assert rows.tokens_BT.tolist() == [[1, 9, 0, 0, 0], [0, 0, 1, 7, 2]]
  assert rows.position_ids_BT.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]


def test_segs_are_found_in_order_with_their_own_obj():
  segs = find_segs(spliced(), IDS, seg=7, obj=5)
  assert segs.seg_BM.tolist() == [[6, 8], [1, 0]]
  assert segs.obj_BM.tolist() == [[5, -1], [-1, -1]]
  assert segs.valid_BM.tolist() == [[1, 1], [1, 0]]
  assert segs.positions_K2.tolist() == [[0, 5], [0, 7], [1, 0]]


def test_the_offset_option_counts_from_the_text():
  segs = find_segs(spliced(), IDS, seg=7, obj=5, offset=1)
  assert segs.seg_BM.tolist() == [[5, 7], [2, 0]]
