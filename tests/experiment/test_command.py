"""`miras experiment`: what arms are, what is trained and scored once, what is shown.

Training and evaluation are fakes here, whose masks are as good as a test says.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from input_pipeline import mask_ops
from input_pipeline.open_source import open_source
from miras_jax.config import file as config_file
from miras_jax.data import command as data_command
from miras_jax.errors import UserError
from miras_jax.evaluation import metrics
from miras_jax.experiment import catalogue, command, derived, groups, runs

ALIGNMENT = "model.overrides.seg_prompt.alignment"
SMALL = ["--limit=9", "--resamples=50"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
  return runs.make_data(tmp_path_factory.mktemp("rendered"), 200)


def fake(monkeypatch, quality):
  """Training that notes itself, evaluation that draws `quality(path)` of each mask."""
  done = []

  def train(config, folder, *, nested):
    done.append((folder.path.parts[-2], folder.path.name, config))
    folder.step(config.steps).mkdir(parents=True, exist_ok=True)

  def evaluate(argv):
    options = dict(a.removeprefix("--").split("=", 1) for a in argv if "=" in a)
    done.append(("eval", options["out"], options))
    source = open_source(options["data"], options["split"], **folders(options))
    count = min(len(source), int(options.get("limit", len(source))))
    lines = [answer(source.load(i), quality(options["out"])) for i in range(count)]
    out = pathlib.Path(options["out"])
    text = "".join(json.dumps(x) + "\n" for x in lines)
    (out / "predictions.jsonl").write_text(text)

  monkeypatch.setattr(runs.training, "run", train)
  monkeypatch.setattr(runs.evaluation, "main", evaluate)
  monkeypatch.setattr(runs.workdir.Workdir, "steps", made)
  monkeypatch.setattr(runs, "find_identity", lambda path: f"of {path}")
  return done


def made(folder):
  """Steps of a training folder, whole or not: the fakes are empty."""
  return sorted(int(path.name) for path in folder.checkpoints.iterdir())


def folders(options):
  return {f"{k}_dir": options.get(f"{k}-dir") for k in ("images", "masks")}


def answer(record, quality):
  """A line whose masks are the upper `quality` rows of the true ones."""
  users = [text for role, text in record.turns if role == "user"]
  golds = [text for role, text in record.turns if role == "assistant"]
  slots = [(t, k) for t, x in enumerate(golds) for k in range(x.count("[SEG]"))]
  targets = []
  for (turn, index), (name, true) in zip(slots, record.targets, strict=True):
    mask = mask_ops.decode_rle(true)
    rows = np.flatnonzero(mask.any(1))
    if len(rows):
      mask[rows[0] + round(quality * len(rows)) :] = 0
    rle = mask_ops.encode_rle(mask)
    targets.append(
      {"turn": turn, "index": index, "name": name, "mask": rle, "true": true}
    )
  turns = [
    {"user": u, "answer": g, "gold": g, "num_seg": g.count("[SEG]")}
    for u, g in zip(users, golds, strict=True)
  ]
  image = record.image_id
  return {"id": record.id, "image": image, "turns": turns, "targets": targets}


def experiment(tmp_path, name, rendered, *options):
  """result.json of an experiment."""
  argv = [name, f"--out={tmp_path / 'out'}", f"--data={rendered}", *SMALL, *options]
  assert command.main(argv) == 0
  text = (tmp_path / "out" / name / "result.json").read_text()
  return json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} in the JSON"))


def evaluated(done):
  return [place for name, place, _ in done if name == "eval"]


def trained(done):
  return [(name, stage) for name, stage, _ in done if name != "eval"]


@pytest.mark.parametrize("name", catalogue.EXPERIMENTS)
def test_every_arm_is_a_run_that_can_be_built(name):
  for arm in catalogue.EXPERIMENTS[name].arms:
    fields = [(key, str(value)) for key, value in arm.fields.items()]
    config = config_file.read(runs.CONFIG, fields)
    assert config.model.build()
    assert sum(share for _, share in arm.stages) == 1.0


def test_arms_are_compared_over_seeds_and_images(
  tmp_path, rendered, monkeypatch, capsys
):
  fake(monkeypatch, lambda out: 0.4 if "no_convnext" in out else 0.9)
  found = experiment(tmp_path, "encoders", rendered, "--seeds=2", "--steps=6")
  both, without, *_ = found["arms"]
  assert len(both["metrics"]["ciou"]["seeds"]) == 2
  assert both["metrics"]["ciou"]["low"] < both["metrics"]["ciou"]["value"]
  difference = without["difference"]["ciou"]
  assert difference["value"] < -0.3 and difference["high"] < -0.2
  assert difference["p"] == 0.25  # three images: the least there is
  out = capsys.readouterr().out
  assert "no convnext - both: ciou -0." in out
  page = (tmp_path / "out" / "encoders" / "index.html").read_text()
  assert "no convnext" in page and "<script" not in page
  assert found["provenance"]["versions"]["jax"] in page and "2 seeds of 6 steps" in page


def test_a_second_run_makes_nothing_again(tmp_path, rendered, monkeypatch):
  done = fake(monkeypatch, lambda out: 0.5)
  first = experiment(tmp_path, "alignment", rendered, "--seeds=1", "--steps=6")
  scored = [entry for entry in done if entry[0] == "eval"]
  assert len(scored) == 3
  assert experiment(tmp_path, "alignment", rendered, "--seeds=1", "--steps=6") == first
  assert [entry for entry in done if entry[0] == "eval"] == scored


def test_another_limit_leaves_what_was_scored(tmp_path, rendered, monkeypatch):
  """Also half of it: a run that was cut goes on, whatever was tried in between."""
  done = fake(monkeypatch, lambda out: 0.5)
  for limit in (9, 6, 9):
    options = ["--seeds=1", "--steps=6", f"--limit={limit}"]
    experiment(tmp_path, "alignment", rendered, *options)
  assert len([entry for entry in done if entry[0] == "eval"]) == 2 * 3


def test_arms_that_train_alike_share_a_run_between_experiments(
  tmp_path, rendered, monkeypatch
):
  done = fake(monkeypatch, lambda out: 0.5)
  for name in ("encoders", "alignment"):
    experiment(tmp_path, name, rendered, "--seeds=1", "--steps=6")
  names = {name for name, _ in trained(done)}
  assert names == {
    "base-6-seed0",
    "encoders.no_convnext-6-seed0",
    "encoders.no_clip-6-seed0",
    "encoders.shared-6-seed0",
    "encoders.sam_only-6-seed0",
    "alignment.off-6-seed0",
    "alignment.residual-6-seed0",
  }


def test_stages_start_from_the_stage_before_with_half_the_steps(
  tmp_path, rendered, monkeypatch
):
  done = fake(monkeypatch, lambda out: 0.5)
  experiment(tmp_path, "stages", rendered, "--seeds=1", "--steps=6")
  configs = {(name, stage): c for name, stage, c in done if name != "eval"}
  first, second = (configs["stages.1_2-6-seed0", f"stage{i}"] for i in (0, 1))
  assert (first.steps, second.steps) == (3, 3)
  assert first.data.dir.endswith("named") and second.data.dir == str(rendered)
  assert second.init_from.endswith("stage0") and not first.init_from


def test_a_stopped_run_ends_the_experiment(tmp_path, rendered, monkeypatch):
  fake(monkeypatch, lambda out: 0.5)
  monkeypatch.setattr(
    runs.training, "run", lambda config, folder, **_: folder.step(1).mkdir(parents=True)
  )
  with pytest.raises(KeyboardInterrupt):
    experiment(tmp_path, "history", rendered, "--seeds=1", "--steps=6")


def test_history_is_own_gold_and_none_of_one_run(tmp_path, rendered, monkeypatch):
  done = fake(monkeypatch, lambda out: 0.2 if out.endswith("none") else 0.8)
  found = experiment(tmp_path, "history", rendered, "--seeds=1", "--steps=6")
  assert {name for name, _ in trained(done)} == {"base-6-seed0"}
  scored = [options for name, _, options in done if name == "eval"]
  assert [options.get("history") for options in scored] == ["model", "gold", None]
  own, gold, none = (row["metrics"]["ciou"]["value"] for row in found["arms"])
  assert own == gold > none + 0.4


def test_complexity_is_by_turn_distractors_and_size(tmp_path, rendered, monkeypatch):
  fake(monkeypatch, lambda out: 0.5)
  found = experiment(tmp_path, "complexity", rendered, "--seeds=2", "--steps=6")
  assert set(found["groups"]) == {"turns", "distractors", "target size"}
  targets = sum(row["giou"]["n"] for row in found["groups"]["turns"].values())
  source = open_source(str(rendered), "val")
  first = [source.load(i) for i in range(min(9, len(source)))]
  assert targets == sum(len(record.targets) for record in first)
  page = (tmp_path / "out" / "complexity" / "index.html").read_text()
  assert "giou by distractors" in page


def test_a_measure_that_no_seed_has_is_none(tmp_path):
  """So few conversations were scored that none of them has an edit."""
  folders = [tmp_path / name for name in "ab"]
  for folder, value in zip(folders, (0.5, None), strict=True):
    folder.mkdir()
    measured = {"copying": {"value": value}, "edits_ciou": {"value": None}}
    text = json.dumps({"state": {"metrics": measured}})
    (folder / "metrics.json").write_text(text)
  assert command.state_means(folders) == {"copying": 0.5, "edits_ciou": None}


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_score_that_is_damaged_is_named_with_the_remedy(tmp_path, text):
  if text is not None:
    (tmp_path / "metrics.json").write_text(text)
  with pytest.raises(UserError, match=f"metrics.json.*; delete {tmp_path} and run"):
    command.state_means([tmp_path])


def test_other_parameters_at_the_same_place_are_scored_again(
  tmp_path, rendered, monkeypatch
):
  done = fake(monkeypatch, lambda out: 0.5)
  experiment(tmp_path, "alignment", rendered)
  first = evaluated(done)
  experiment(tmp_path, "alignment", rendered)
  assert evaluated(done) == first
  monkeypatch.setattr(runs, "find_identity", lambda path: f"trained again: {path}")
  experiment(tmp_path, "alignment", rendered)
  assert evaluated(done) == 2 * first


@pytest.mark.parametrize(
  "name, field, said",
  [
    ("losses", "seed=5", "is counted by --seeds"),
    ("losses", "steps=5", "is --steps"),
    ("alignment", f"{ALIGNMENT}=off", "is what its arms differ in"),
  ],
)
def test_a_field_that_would_change_nothing_is_one_line(tmp_path, name, field, said):
  with pytest.raises(UserError, match=f"--config.*: {said} in this experiment"):
    command.main([name, f"--out={tmp_path}", f"--config.{field}"])


def test_a_data_set_that_is_not_there_is_one_line(tmp_path):
  with pytest.raises(UserError, match="nowhere/train.json: no such file"):
    command.main(["losses", f"--out={tmp_path}", f"--data={tmp_path / 'nowhere'}"])


@pytest.fixture(scope="module")
def built(rendered, tmp_path_factory):
  out = tmp_path_factory.mktemp("built")
  argv = ["build", "prist", f"--src={rendered}", f"--out={out}", "--num_workers=0"]
  assert data_command.main(argv) == 0
  return out


def test_a_built_data_set_is_as_good_as_a_folder(tmp_path, built, monkeypatch):
  done = fake(monkeypatch, lambda out: 0.5)
  found = experiment(tmp_path, "losses", built, "--seeds=1", "--steps=6")
  assert {config.data.dir for name, _, config in done if name != "eval"} == {str(built)}
  assert 0.3 < found["arms"][0]["metrics"]["ciou"]["value"] < 0.7


@pytest.mark.parametrize("name", ["stages", "history", "complexity"])
def test_what_wants_a_folder_says_so_of_a_built_set(tmp_path, built, name):
  with pytest.raises(UserError, match=f"--data={built}.*wants one in PRIST's layout"):
    command.main([name, f"--out={tmp_path}", f"--data={built}"])


def test_more_resamples_than_memory_holds_are_one_line(tmp_path):
  with pytest.raises(UserError, match="--resamples=1000000000 must be at most"):
    command.main(["losses", f"--out={tmp_path}", "--resamples=1000000000"])


def test_an_unknown_experiment_names_the_nearest():
  with pytest.raises(UserError, match="did you mean 'encoders'"):
    command.main(["encoder"])


def test_the_list_names_every_experiment_and_arm(capsys):
  command.main(["list"])
  out = capsys.readouterr().out
  for name, experiment in catalogue.EXPERIMENTS.items():
    assert f"{name}: {experiment.question}" in out
    assert all(arm.about in out for arm in experiment.arms)


# -- what is made of the data -------------------------------------------------------


def test_named_requests_and_requests_alone_are_sound_data(tmp_path, rendered):
  entries = derived.read_list(rendered, "train")
  lists = {"train": derived.named(entries), "val": derived.alone(entries)}
  folder = derived.write(tmp_path / "made", lists)
  where = {f"{x}_dir": rendered / x for x in ("images", "masks")}
  for split, records in lists.items():
    source = open_source(folder, split, **where)
    assert len(source) == len(records) > 0
    for i in range(len(source)):
      record = source.load(i)
      assert len(record.turns) == 2 and record.targets
  every = sum(len(open_source(rendered, "train").load(i).targets) for i in range(9))
  shown = [len(r["focus"]) for r in derived.alone(entries[:9])]
  assert sum(shown) == every


def test_distractors_share_a_word_and_are_not_the_target_or_its_groups(tmp_path):
  def shape(label, group, *corner):
    return {"label": label, "group_id": group, "points": [corner, (0, 0), (1, 1)]}

  cup = shape("big red cup", 0, 1, 2)
  others = [shape("red dish", 1, 3, 4), shape("blue cup", 2, 5, 6)]
  tree = shape("green tree", 3, 7, 8)
  again = {**cup, "label": "leftmost cup", "group_id": 4}
  group = [{**x, "label": "cups", "group_id": 5} for x in (others[1], tree)]
  shapes = [cup, *others, tree, again, *group]
  (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
  assert groups._distractors(tmp_path, "a.jpg", "leftmost cup") == "1"
  assert groups._distractors(tmp_path, "a.jpg", "big red cup") == "2"
  assert groups._distractors(tmp_path, "b.jpg", "big red cup") == ""


def test_runs_that_begin_with_a_model_have_its_tokenizer(tmp_path):
  setup = runs.Setup(tmp_path, tmp_path / "data", 1, 1)
  assert runs.tokenizer_of(setup) == tmp_path / "tokenizer"
  begun = setup._replace(fields=(("init_from", str(tmp_path / "mine")),))
  with pytest.raises(UserError, match="want a training folder"):
    runs.tokenizer_of(begun)
  (tmp_path / "mine" / "tokenizer").mkdir(parents=True)
  assert runs.tokenizer_of(begun) == tmp_path / "mine" / "tokenizer"


def test_groups_are_scored_apart():
  table = {
    "image": np.array(list("aabb")),
    "inter": np.array([10, 0, 10, 0]),
    "pred": np.array([10, 5, 10, 5]),
    "true": np.array([10, 5, 10, 5]),
    "biou": np.zeros(4),
  }
  found = metrics.by_value(table, ["1", "10", "1", ""], ["1", "10"], resamples=9)
  assert list(found) == ["1", "10"]
  assert found["1"]["giou"]["value"] == 1.0 and found["10"]["giou"]["value"] == 0.0


@pytest.mark.slow
@pytest.mark.skipif(
  not os.environ.get("MIRAS_TEST_EXPERIMENTS"),
  reason="trains for minutes: MIRAS_TEST_EXPERIMENTS=1 runs it",
)
def test_what_is_really_trained_has_the_values_of_its_evaluation(tmp_path):
  options = ["--steps=2", "--seeds=1", "--conversations=60", "--limit=3"]
  out = tmp_path / "out"
  command.main(["history", f"--out={out}", "--resamples=20", *options])
  found = json.loads((out / "history" / "result.json").read_text())
  for row, history in zip(found["arms"], ("own", "gold", "none"), strict=True):
    folder = out / "runs" / "base-2-seed0" / f"scored-3-{history}"
    told = json.loads((folder / "metrics.json").read_text())["metrics"]
    for name in ("ciou", "giou", "rouge_l"):
      assert row["metrics"][name]["value"] == pytest.approx(told[name]["value"])
