"""`miras segment` with a scripted model: what it reads, writes and finds again."""

import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline import labelme, mask_ops
from miras_jax.errors import UserError
from miras_jax.inference import json_lines
from miras_jax.segment import command, forms, results
from tests import talker

SIZE = (16, 24)  # height, width


def script(prompt, image):
  if "which" in prompt:
    return "It is [OBJ]the cup[SEG] and [SEG].", ["left", "none"]
  return "the right half", []


@pytest.fixture
def talk(tmp_path, monkeypatch):
  """Runs the command on lines; returns (exit status, lines of results by id)."""
  loaded = talker.loaded(script)
  monkeypatch.setattr(command.devices, "load", lambda args: loaded)
  monkeypatch.setattr(command, "find_step", lambda path: 7)
  for name in ("a.png", "b.png"):
    Image.new("RGB", SIZE[::-1], "gray").save(tmp_path / name)

  def run(lines, *options):
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows))
    status = command.main([
      "--checkpoint=run", f"--input={tmp_path}/asked.jsonl",
      f"--out={tmp_path}/out", *options,
    ])  # fmt: skip
    found = results.read_lines(tmp_path / "out" / results.NAME)
    return status, {line["id"]: line for line in found}

  run.loaded = loaded
  return run


def asked(name, *turns, image="a.png"):
  return {"id": name, "image": image, "turns": list(turns)}


TWO = [asked("x", "Where is it?", "which one"), asked(3, "which one", image="b.png")]


def test_each_turn_has_its_text_and_masks(talk):
  status, found = talk(TWO)
  first, second = found["x"]["turns"]
  assert status == 0 and set(found) == {"x", "3"}
  assert (first["user"], first["answer"], first["masks"]) == (
    "Where is it?", "the right half", []
  )  # fmt: skip
  cup, _ = second["masks"]
  assert cup["score"] == 0.5 and second["num_seg"] == 2
  assert second["answer"][slice(*cup["span"])] == "[OBJ]the cup[SEG]"
  mask = mask_ops.decode_rle(cup["rle"])
  assert mask.shape == SIZE and mask[:, :10].all() and not mask[:, 14:].any()


def test_later_turns_see_the_models_own_answers(talk):
  talk(TWO)
  assert "the right half" in talk.loaded.model.prompts[-1]


def test_a_dialogue_is_asked_its_questions(talk):
  dialogue = [
    {"from": "user", "value": "Where is it?"},
    {"from": "assistant", "value": "the left half"},
    {"role": "user", "content": "which one"},
  ]
  line = {"id": "d", "image": "a.png", "dialogue": dialogue}
  _, found = talk([line])
  assert [turn["user"] for turn in found["d"]["turns"]] == ["Where is it?", "which one"]
  assert "the left half" not in talk.loaded.model.prompts[-1]


def test_gold_history_is_the_dialogues_own(talk):
  dialogue = [
    {"from": "human", "value": "Where is it?"},
    {"from": "gpt", "value": "the left half"},
    {"from": "human", "value": "which one"},
  ]
  talk([{"id": "d", "image": "a.png", "messages": dialogue}], "--history=gold")
  assert "the left half" in talk.loaded.model.prompts[-1]


BAD = {
  "is not valid JSON": "{",
  "has no turns": {"id": "n", "image": "a.png"},
  "id is missing": {"image": "a.png", "turns": ["x"]},
  "leaves its folder": asked("out", "x", image="../secret.png"),
  "absolute path": asked("abs", "x", image="/etc/passwd"),
  "no such image file: c.png": asked("gone", "x", image="c.png"),
  "no.txt": asked("text", "x", image="no.txt"),
  "turns[1] is empty": asked("empty", "x", " "),
  "is from \"system\"": {"id": "s", "image": "a.png",
                         "turns": [{"from": "system", "value": "x"}]},
  "want the user": {"id": "r", "image": "a.png",
                    "turns": [{"from": "gpt", "value": "x"}]},
  "id 'x' is that of line 1, too": asked("x", "again"),
  "has more than 1,048,576 bytes": '{"id": "' + "y" * (3 << 20) + '"}',
  "half a character": '{"id": "h", "image": "a.png", "turns": ["\\ud800"]}',
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_named_and_passed_over(talk, tmp_path, capsys, reason):
  (tmp_path / "no.txt").write_text("no image")
  status, found = talk([TWO[0], BAD[reason], TWO[1]])
  (line,) = [x for x in capsys.readouterr().err.splitlines() if "asked.jsonl" in x]
  assert line.startswith(f"{tmp_path}/asked.jsonl:2: ") and reason in line
  assert status == 1 and set(found) == {"x", "3"}


def test_a_link_out_of_the_folder_is_not_followed(talk, tmp_path, capsys):
  inner = tmp_path / "inner"
  inner.mkdir()
  (inner / "a.png").symlink_to(tmp_path / "a.png")
  status, found = talk([asked("x", "which one")], f"--images_dir={inner}")
  assert status == 1 and not found
  assert "is a link that leaves its folder" in capsys.readouterr().err


def test_a_question_that_does_not_fit_is_named_and_the_rest_answered(talk, capsys):
  status, found = talk([asked("x", "which one", "word " * 400, "Where is it?")])
  assert status == 1 and ":1: turn 2: " in capsys.readouterr().err
  one, two, three = found["x"]["turns"]
  assert "refused" in two and not two["answer"]
  assert one["masks"] and three["answer"]


def test_a_killed_run_goes_on_without_its_torn_line(talk, tmp_path):
  talk(TWO[:1])
  path = tmp_path / "out" / results.NAME
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"id": "3", "tur')
  talk.loaded.model.prompts.clear()
  _, found = talk(TWO)
  assert set(found) == {"x", "3"} and path.read_bytes().startswith(whole)
  assert len(talk.loaded.model.prompts) == 1  # "x" was not asked again


def test_results_of_other_settings_are_not_mixed(talk):
  talk(TWO)
  with pytest.raises(UserError, match="max_new_tokens=128, not 9; take another --out"):
    talk(TWO, "--max_new_tokens=9")


def test_a_foreign_file_in_its_place_is_left_alone(talk, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / results.NAME).write_text('{"mine": 1}\n')
  with pytest.raises(UserError, match="predictions.jsonl:1: is no line of"):
    talk(TWO)


def test_parts_are_joined_once(tmp_path):
  found = results.Results(tmp_path)
  lines = [{"id": x, "turns": [], "size": [1, 1], "image": "a"} for x in "abc"]
  for process, mine in enumerate((lines[:2], lines[1:])):
    with json_lines.Appender(found.part(process, 2)) as file:
      for line in mine:
        file.write(line)
  found.join_parts()
  assert [line["id"] for line in results.read_lines(found.path)] == ["a", "b", "c"]
  assert not list(tmp_path.glob(results.PARTS))


def test_coco_files_are_read_by_cocos_own_tools(talk, tmp_path):
  pycocotools = pytest.importorskip("pycocotools.coco")
  talk(TWO, "--to=coco")
  data = pycocotools.COCO(str(tmp_path / "out" / "coco_instances.json"))
  assert {c["name"] for c in data.cats.values()} == {"the cup", "object"}
  assert {i["file_name"] for i in data.imgs.values()} == {"a.png", "b.png"}
  cup = next(a for a in data.anns.values() if a["area"])
  mask = data.annToMask(cup)
  assert mask.shape == SIZE and mask.sum() == cup["area"]
  assert cup["bbox"] == [0, 0, mask.any(0).sum(), SIZE[0]]
  assert len(data.loadRes(str(tmp_path / "out" / "coco_results.json")).anns) == 4


def test_labelme_files_hold_the_masks(talk, tmp_path):
  _, found = talk(TWO, "--to=labelme,jsonl")
  path = tmp_path / "out" / "labelme" / "x.json"
  annotation = labelme.read_annotation(path)
  (shape,) = annotation.shapes  # the empty one has no box
  rle = found["x"]["turns"][1]["masks"][0]["rle"]
  np.testing.assert_array_equal(
    labelme.shape_mask(shape, *SIZE), mask_ops.decode_rle(rle)
  )
  document = json.loads(path.read_text())
  assert (path.parent / document["imagePath"]).resolve() == tmp_path / "a.png"
  assert (
    shape.label == "the cup" and "which one" in document["shapes"][0]["description"]
  )


def test_pngs_are_named_by_conversation_turn_and_mask(talk, tmp_path):
  talk(TWO, "--to=png")
  names = {path.name for path in (tmp_path / "out" / "png").iterdir()}
  assert "x_turn_02_mask_1.png" in names and "3_turn_01_mask_2.png" in names
  with Image.open(tmp_path / "out" / "png" / "x_turn_02_mask_1.png") as mask:
    assert mask.size == SIZE[::-1] and mask.getpixel((0, 0)) == 255


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "C:\\x", "é" * 300, "a\0b"])
def test_no_id_makes_a_file_elsewhere(name):
  stem = forms.stem(name)
  assert "/" not in stem and "\\" not in stem and "\0" not in stem
  assert not stem.startswith(".") and len(stem) < 150


def test_ids_that_differ_make_files_that_differ():
  names = ["a/b", "a%2Fb", "a_b", "é" * 300, "é" * 301]
  assert len({forms.stem(name) for name in names}) == len(names)


def test_a_form_that_is_none_names_the_nearest(talk):
  with pytest.raises(UserError, match="no form 'labelmee'; did you mean 'labelme'"):
    talk(TWO, "--to=labelmee")
