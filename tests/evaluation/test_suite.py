"""`miras eval --suite=res` on tiny instances of the published forms."""

import json
import os
import types

import numpy as np
import pytest

from input_pipeline import mask_ops
from input_pipeline.builders import registry
from input_pipeline.builders.build import build
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.evaluation import command as eval_command
from miras_jax.evaluation import suite_table
from tests import talker
from tests.evaluation import test_command as usual
from tests.evaluation import tiny_eval
from tests.input_pipeline.builders import mrseg_files, reasonseg_files, refer_files

VAL = [refer_files.ref(0, [101, 102], 9, "val", "both of them"),
       refer_files.ref(1, [-1], 9, "val", "a dog", category_id=[-1])]  # fmt: skip
WRITERS = {
  "refcoco": refer_files.write_refcoco,
  "refcoco+": lambda root: refer_files.write_refcoco(root, name="refcoco+"),
  "grefcoco": lambda root: refer_files.write_grefcoco(root, VAL),
  "reasonseg": reasonseg_files.write_reasonseg,
  "mrseg": lambda root: mrseg_files.write_mrseg(
    root, {"mr_refcoco_val": [mrseg_files.THREE_ROUNDS]}
  ),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A folder of built data sets; of RefCOCOg there is none."""
  root = tmp_path_factory.mktemp("built")
  for name, write in WRITERS.items():
    write(root / "src" / name)
    build(registry.make(name), root / "src" / name, root / "data")
  return root / "data"


def script(prompt, image):
  """Answers with the whole picture, but for a dog with nothing."""
  return ("No.", []) if "a dog" in prompt else ("It is [SEG].", ["all"])


@pytest.fixture
def suite(tmp_path, monkeypatch, built):
  """Runs the suite with a scripted model; returns (exit status, suite.json)."""
  config = types.SimpleNamespace(to_json=lambda: "{}")
  loaded = talker.loaded(script)._replace(config=config, step=7)
  usual.stand_in(monkeypatch, loaded, RunConfig())

  def run(*options):
    status = eval_command.main([
      "--checkpoint=x", "--suite=res", f"--data={built}", f"--out={tmp_path}/out",
      "--batch_size=4", *options,
    ])  # fmt: skip
    return status, json.loads((tmp_path / "out" / "suite.json").read_text())

  run.prompts = loaded.model.prompts
  return run


def result(found, benchmark, split):
  (one,) = [
    r for r in found["results"] if (r["benchmark"], r["split"]) == (benchmark, split)
  ]
  return one


def test_each_benchmark_has_its_own_numbers(suite, tmp_path):
  _, found = suite()
  size = refer_files.HEIGHT * refer_files.WIDTH
  man = result(found, "RefCOCO", "val")["parts"]["all"]
  # All of the picture is answered; COCO's rule draws a box's edges, too.
  line = json.loads((tmp_path / "out/refcoco_val/predictions.jsonl").read_text())
  area = mask_ops.rle_area(line["targets"][0]["true"])
  assert man["ciou"]["value"] == man["miou"]["value"] == pytest.approx(area / size)
  assert set(man) == {"ciou", "miou", "p@0.5", "p@0.7", "p@0.9"}
  assert man["ciou"]["n"] == 1


def test_grefcoco_counts_silence_as_right_where_nothing_is_meant(suite, tmp_path):
  _, found = suite()
  numbers = result(found, "gRefCOCO", "val")["parts"]["all"]
  assert numbers["n_acc"]["value"] == numbers["t_acc"]["value"] == 1.0
  assert numbers["n_acc"]["n"] == numbers["t_acc"]["n"] == 1
  # The mean of 1 for the dog and the IoU of both things, which alone have pixels.
  assert numbers["giou"]["value"] == pytest.approx((1 + numbers["ciou"]["value"]) / 2)
  assert 0 < numbers["ciou"]["value"] < 1


def test_questions_are_the_suites_own(suite):
  _, found = suite()
  asked = " ".join(suite.prompts)
  assert "Please segment the man in this picture." in asked
  assert "one? Please answer with a segmentation mask." in asked
  assert "Please segment a man that nobody drew in this picture." in asked
  counts = {
    r["benchmark"]: r["counts"]["asked_as_they_stand"] for r in found["results"]
  }
  assert counts["RefCOCO"] == counts["ReasonSeg"] == 0 and counts["MRSeg"] == 1


def test_questions_can_be_replaced(suite, tmp_path):
  file = tmp_path / "mine.json"
  file.write_text('{"phrase": "What is {phrase}? Mask, please."}')
  suite(f"--templates={file}")
  assert any("What is the man? Mask, please." in prompt for prompt in suite.prompts)


def test_rounds_and_lengths_have_rows_of_their_own(suite):
  _, found = suite()
  rounds = result(found, "MRSeg", "val")["parts"]
  assert list(rounds) == [
    "all", *(f"mr_refcoco_val, round {k}" for k in (1, 2, 3))
  ]  # fmt: skip
  assert rounds["all"]["ciou"]["n"] == 3
  assert list(result(found, "ReasonSeg", "val")["parts"]) == ["all", "long queries"]


def test_what_is_missing_is_named_and_the_status_says_so(suite, capsys):
  status, found = suite()
  assert status == 1
  names = [item["benchmark"] for item in found["missing"]]
  assert "RefCOCOg val" in names and "RefCOCOg test" in names
  printed = capsys.readouterr()
  assert "RefCOCOg val: missing: " in printed.err
  assert "* RefCOCOg val: " in printed.out
  status, _ = suite("--allow_missing")
  assert status == 0


def test_the_table_is_a_page_in_per_cent(suite, tmp_path):
  suite()
  page = (tmp_path / "out" / "suite.md").read_text()
  head, values = (
    line
    for line in page.splitlines()[:10]
    if line.startswith("| ") and "---" not in line
  )
  assert head.startswith("| RefCOCO val cIoU | RefCOCO testA cIoU |")
  assert len(head.split("|")) == len(values.split("|"))
  assert "| val | 100" not in page and "N-acc" in page
  assert (
    "in brackets 95 % intervals" in page and "History: model answers. Made 20" in page
  )


def test_a_finished_split_is_not_run_again(suite):
  _, first = suite()
  suite.prompts.clear()
  _, second = suite()
  assert first["results"] == second["results"] and not suite.prompts


def test_results_of_other_settings_are_not_mixed(suite):
  suite()
  with pytest.raises(UserError, match="holds results of max_new_tokens=64, not 9"):
    suite("--max_new_tokens=9")


def test_results_that_this_command_did_not_write_are_one_line(suite, tmp_path):
  suite()
  (tmp_path / "out/refcoco_val/result.json").write_text('{"settings": {}}')
  with pytest.raises(UserError, match="result.json: lacks one of settings, counts"):
    suite()


def test_templates_without_an_end_are_one_line(suite, tmp_path):
  os.mkfifo(tmp_path / "mine.json")
  with pytest.raises(UserError, match="mine.json: is a FIFO"):
    suite(f"--templates={tmp_path / 'mine.json'}")


@pytest.mark.parametrize(
  "flags, words",
  [
    (["--data=x", "--examples=-1"], "--examples=-1 must be at least 0"),
    (["--suite=res"], "--suite needs --data"),
    (["--suite=res", "--data=x", "--split=val"], "--split is not for --suite"),
    (["--suite=ref", "--data=x"], "invalid choice: 'ref'"),
    (["--data=x", "--allow_missing"], "--allow_missing is for --suite"),
  ],
)
def test_options_that_do_not_go_together_are_one_line(tmp_path, flags, words):
  with pytest.raises(UserError, match=words):
    eval_command.main(["--checkpoint=x", f"--out={tmp_path}", *flags])


@pytest.mark.parametrize(
  "text, words",
  [
    ("{", "cannot be read as JSON"),
    ("[" * 100_000, "cannot be read as JSON"),
    ("[]", "want an object of phrase, question"),
    ('{"phrase": "Segment it."}', "phrase must hold {phrase} once"),
    ('{"phrase": "{phrase} {x}"}', "{x} is none of"),
  ],
)
def test_templates_that_cannot_be_are_one_line(suite, tmp_path, text, words):
  file = tmp_path / "mine.json"
  file.write_text(text)
  with pytest.raises(UserError, match=words):
    suite(f"--templates={file}")


def line(pairs, num=1):
  """A line whose answer has these (prediction, target) masks of four pixels."""
  rle = [[mask_ops.encode_rle(np.array([mask])) for mask in pair] for pair in pairs]
  return {
    "id": "a/0",
    "image": "a",
    "targets": [
      {"turn": 0, "name": "x", "mask": pred, "true": true} for pred, true in rle
    ],
    "turn_masks": [{"turn": 0, "mask": pred} for pred, _ in rle],
  }


def test_a_union_is_scored_as_one_mask():
  samples = suite_table.Samples({"union": True, "metrics": ["giou", "ciou"]})
  # Each prediction is the other's target: as one mask they are right.
  samples.add(line([([1, 0, 0, 0], [0, 1, 0, 0]), ([0, 1, 0, 0], [1, 0, 0, 0])]))
  found = samples.metrics()["all"]
  assert found["giou"]["value"] == found["ciou"]["value"] == 1.0
  assert found["giou"]["n"] == 1


def test_ciou_pools_pixels_and_miou_averages():
  samples = suite_table.Samples({"metrics": ["ciou", "miou", "p@0.5"]})
  samples.add(line([([1, 1, 1, 1], [1, 1, 1, 1])]))
  samples.add(line([([1, 0, 0, 0], [0, 1, 0, 0])]))
  found = samples.metrics()["all"]
  assert found["ciou"]["value"] == pytest.approx(4 / 6)
  assert found["miou"]["value"] == found["p@0.5"]["value"] == 0.5


@pytest.mark.slow
def test_the_tiny_random_model_runs_the_suite(built, tmp_path, monkeypatch):
  tiny_eval.stand_in(monkeypatch.setattr)
  status = eval_command.main([
    *tiny_eval.OPTIONS, "--suite=res", f"--data={built}", f"--out={tmp_path}",
    "--allow_missing",
  ])  # fmt: skip
  found = json.loads((tmp_path / "suite.json").read_text())
  assert status == 0 and len(found["results"]) == 10
  for row in found["results"]:
    for table in row["parts"].values():
      assert all(m["value"] is None or 0 <= m["value"] <= 1 for m in table.values())
