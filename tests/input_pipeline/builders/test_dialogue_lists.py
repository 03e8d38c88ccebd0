"""Dialogues without masks: LLaVA, ShareGPT4V, ALLaVA."""

import io
import tracemalloc

import pytest
from PIL import Image

from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.builders import dialogue_files
from tests.input_pipeline.builders.dialogue_files import item, said
from tests.input_pipeline.builders.in_memory import (
  build_in_memory,
  write_json,
)

LIST = "llava_instruct_150k.json"
NAME = "000000033471.jpg"


def built(name, root, **options):
  return build_in_memory(registry.make(name, **options), root, "train")


def built_one(tmp_path, entry):
  """(turns of the record, reason why there is none) of a single entry."""
  dialogue_files.write_pictures(tmp_path, f"coco/train2017/{NAME}")
  write_json(tmp_path / LIST, [entry])
  records, errors = built("llava_instruct_150k", tmp_path)
  [error] = errors or [None]
  return [text for r in records for _, text in r.turns], error and error.reason


def test_ids_come_from_the_place_in_the_list(tmp_path):
  dialogue_files.write_instruct(tmp_path)
  records, errors = built("llava_instruct_150k", tmp_path)
  assert errors == []
  assert [(r.id, r.image_id) for r in records] == [
    ("train/llava_instruct_150k/1", "coco/000000000009"),
    ("train/llava_instruct_150k/0", "coco/000000033471"),
    ("train/llava_instruct_150k/2", "coco/000000033471"),
  ]


def test_the_image_token_is_no_part_of_any_text(tmp_path):
  dialogue_files.write_instruct(tmp_path)
  after, before, between = (r.turns for r in built("llava_instruct_150k", tmp_path)[0])
  assert after[0] == ("user", "Where is it?")
  assert before == (
    ("user", "What is on it?"),
    ("assistant", "A dog."),
    ("user", "And?"),
    ("assistant", "A cat."),
  )
  assert between == (("user", "Describe\nit."), ("assistant", "It is a dog."))


def test_all_conversations_about_a_picture_are_one_unit(tmp_path):
  dialogue_files.write_instruct(tmp_path)
  builder = registry.make("llava_instruct_150k")
  units = list(builder.units(SourceFolder(tmp_path), "train"))
  assert [[i for _, i, *_ in unit["items"]] for unit in units] == [[1], [0, 2]]


def test_memory_does_not_grow_with_the_list(tmp_path):
  peaks = []
  for count in (2_000, 16_000):
    entries = [item(f"{i:012d}.jpg", "What? " * 9, "It. " * 9) for i in range(count)]
    write_json(tmp_path / LIST, entries)
    del entries
    units = registry.make("llava_instruct_150k").units(SourceFolder(tmp_path), "train")
    tracemalloc.start()
    assert sum(1 for _ in units) == count
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  assert peaks[1] < 1.5 * peaks[0]


def test_a_picture_has_one_id_in_every_folder_of_the_mix(tmp_path):
  dialogue_files.write_mix(tmp_path)
  records, errors = built("llava_mix665k", tmp_path)
  assert errors == []
  assert {r.id.rsplit("/", 1)[1]: r.image_id for r in records} == {
    "0": "coco/000000000030",
    "1": "coco/000000000139",
    "2": "vg/61",
    "3": "coco/000000000139",
    "4": "openimages/011e7e629fb9ae7b",
    "5": "ocr_vqa/0061",
    "6": "",
  }


def test_a_conversation_without_a_picture_is_text_alone(tmp_path):
  dialogue_files.write_mix(tmp_path)
  [text] = [r for r in built("llava_mix665k", tmp_path)[0] if not r.image_id]
  assert (text.image, text.targets) == (b"", ())
  assert text.turns[0] == ("user", "What is <image> in HTML?")


def test_of_a_gif_named_jpg_the_first_frame_is_kept(tmp_path):
  dialogue_files.write_mix(tmp_path)
  [book] = [r for r in built("llava_mix665k", tmp_path)[0] if "ocr" in r.image_id]
  image = Image.open(io.BytesIO(book.image))
  assert image.format == "PNG" and image.getpixel((3, 3)) == (255, 0, 0)


def test_a_missing_picture_is_named_for_each_of_its_conversations(tmp_path):
  dialogue_files.write_instruct(tmp_path)
  (tmp_path / "coco/train2017" / NAME).unlink()
  records, errors = built("llava_instruct_150k", tmp_path)
  assert len(records) == 1
  assert [str(error) for error in errors] == [
    f"{LIST}:{i}: coco/train2017/{NAME}: no such file" for i in (0, 2)
  ]


@pytest.mark.parametrize(
  "turns, reason",
  [
    (said("a", "see [SEG]"), "turn 1 holds [SEG], which is no text in an answer"),
    (said("a", "[OBJ]cup"), "turn 1 holds [OBJ], which is no text in an answer"),
    (said("a", "<image>\n"), "turn 1 is empty"),
    (said("a", "b", "c"), "the last turn is from 'human': it has no answer"),
    (said("a", "b", first="gpt"), "turn 0 is from 'gpt', want 'human'"),
    ([*said("a"), *said("b", "c")], "turn 1 is from 'human', want 'gpt'"),
    ([*said("a", "b"), {"from": "system", "value": "c"}], "turn 2 is from 'system'"),
    ([{"from": "system", "value": "c"}], "its system turn has no question after it"),
    ([], "conversations is empty"),
    (["a", "b"], "turn 0 is a str"),
    ([{"from": "human", "value": 5}], "turn 0: value is a int"),
    ("a", "conversations is a str, want list"),
  ],
)
def test_what_is_no_dialogue_is_named(tmp_path, turns, reason):
  texts, found = built_one(tmp_path, item(NAME) | {"conversations": turns})
  assert texts == [] and found.startswith(reason)


@pytest.mark.parametrize(
  "entry, reason",
  [
    (item("../../etc/passwd", "a", "b"), "leaves the folder of the data set"),
    (item("/etc/passwd", "a", "b"), "leaves the folder of the data set"),
    (item(" ", "a", "b"), "is no path of a file"),
    (item([NAME], "a", "b"), "image is a list, want str"),
    (item(None, "<image>\na", "b"), "says <image> and has no image"),
    ("no object", "is a str, want an object"),
    ({"id": "1"}, "has no 'conversations'"),
  ],
)
def test_what_is_no_entry_is_named(tmp_path, entry, reason):
  texts, found = built_one(tmp_path, entry)
  assert texts == [] and reason in found


def test_a_question_may_hold_what_is_a_token_in_answers(tmp_path):
  texts, _ = built_one(tmp_path, item(NAME, "What does [SEG] mean?", "A part."))
  assert texts == ["What does [SEG] mean?", "A part."]


def test_a_system_turn_opens_the_first_question(tmp_path):
  turns = [{"from": "system", "value": "Be brief."}, *said("<image>\nWhat?", "A dog.")]
  texts, _ = built_one(tmp_path, item(NAME) | {"conversations": turns})
  assert texts == ["Be brief.\nWhat?", "A dog."]


@pytest.mark.parametrize("name", ["sharegpt4v", "sharegpt4v_pt", "sharegpt4v_mix665k"])
def test_each_list_of_sharegpt4v_is_a_data_set(tmp_path, name):
  [file] = (
    registry.make(name)
    .known[{"sharegpt4v": "captions", "sharegpt4v_pt": "captioner"}.get(name, "mix")]
    .files
  )
  records, errors = built(name, dialogue_files.write_sharegpt4v(tmp_path, file))
  assert errors == []
  assert {r.image_id for r in records} == {
    "coco/000000000009",
    "sam/sa_545504",
    "wikiart/images/a-b_c",
    "openimages/011e7e629fb9ae7b",
    "",
  }


def test_the_pictures_that_miras_trains_on_can_be_chosen(tmp_path):
  [file] = registry.make("sharegpt4v_mix665k").known["mix"].files
  root = dialogue_files.write_sharegpt4v(tmp_path, file)
  chosen = "coco/train2017/,sam/images/"
  records, _ = built("sharegpt4v_mix665k", root, prefixes=chosen)
  assert {r.image_id for r in records} == {"coco/000000000009", "sam/sa_545504"}


def test_allava_has_caption_and_question_of_a_picture_in_one_unit(tmp_path):
  root = dialogue_files.write_allava(tmp_path)
  builder = registry.make("allava")
  units = list(builder.units(SourceFolder(root), "train"))
  assert [len(unit["items"]) for unit in units] == [2, 2, 2, 1]
  records, errors = built("allava", root)
  assert errors == [] and len(records) == 7


def test_a_part_of_allava_needs_its_own_files_alone(tmp_path):
  root = dialogue_files.write_allava(tmp_path)
  for path in (root / "allava_laion").glob("*.json"):
    path.unlink()
  assert len(built("allava_vflan", root)[0]) == 4
  assert len(built("allava_text", root)[0]) == 1
  with pytest.raises(UserError, match="holds no allava_laion/ALLaVA-Caption-LAION"):
    built("allava", root)


def test_a_picture_of_vision_flan_that_is_cocos_has_its_id(tmp_path):
  records, _ = built("allava_vflan", dialogue_files.write_allava(tmp_path))
  assert {r.image_id for r in records} == {
    "coco/000000000009",
    "vflan/ImageNet-C+4_1.png",
  }


def test_pictures_of_vision_flan_are_found_where_miras_keeps_them(tmp_path):
  root = dialogue_files.write_allava(tmp_path)
  (root / "vision-Flan").mkdir()
  (root / "allava_vflan/images/images_191task_1k").rename(
    root / "vision-Flan/images_191task_1k"
  )
  records, errors = built("allava_vflan", root)
  assert (len(records), errors) == (4, [])
