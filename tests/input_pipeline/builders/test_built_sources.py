"""Sources in their published forms, from their files to what training reads."""

import pytest

from input_pipeline.builders import registry
from input_pipeline.builders.build import build
from input_pipeline.open_source import open_source
from tests import prist_files
from tests.input_pipeline.builders import (
  ade_full_files,
  class_files,
  dialogue_files,
  list_files,
  mrseg_files,
  muse_files,
  reasonseg_files,
  refer_files,
)

CAPTIONS = ((9, "A dog."), (25, "Two men."))
MIX = "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json"
# name: (writes the source, {split: conversations})
SOURCES = {
  "prist": (
    lambda root: prist_files.write(root, [prist_files.record()] * 2),
    {"val": 2},
  ),
  "refcoco": (refer_files.write_refcoco, {"train": 4, "val": 1, "testA": 1}),
  "refcoco+": (
    lambda root: refer_files.write_refcoco(root, name="refcoco+"),
    {"train": 4, "testB": 1},
  ),
  "refclef": (refer_files.write_refclef, {"testA": 1, "testB": 1, "testC": 1}),
  "grefcoco": (refer_files.write_grefcoco, {"testA": 1}),
  "reasonseg": (reasonseg_files.write_reasonseg, {"train": 4, "val": 1}),
  "muse": (muse_files.write_muse, {"train": 4, "test_less": 2}),
  "mmr": (muse_files.write_mmr, {"test_mixed": 1}),
  "mrseg": (mrseg_files.write_mrseg, {"train": 3, "val": 1}),
  "ade20k": (class_files.write_ade20k, {"train": 3, "val": 1}),
  "ade20k_full": (ade_full_files.write_ade20k_full, {"train": 5}),
  "cocostuff": (class_files.write_cocostuff, {"train": 2, "val": 2}),
  "mapillary": (class_files.write_mapillary, {"train": 2}),
  "pascal_part": (list_files.write_pascal_part, {"train": 4, "val": 1}),
  "paco_lvis": (list_files.write_paco, {"train": 3, "test": 3}),
  "coco_instances": (list_files.write_coco_instances, {"train": 3}),
  "coco_captions": (
    lambda root: list_files.write_coco_captions(root, CAPTIONS),
    {"val": 2},
  ),
  "vg": (list_files.write_visual_genome, {"train": 3}),
  "llava_instruct_150k": (dialogue_files.write_instruct, {"train": 3}),
  "llava_mix665k": (dialogue_files.write_mix, {"train": 7}),
  "sharegpt4v_mix665k": (
    lambda root: dialogue_files.write_sharegpt4v(root, MIX),
    {"train": 5},
  ),
  "allava": (dialogue_files.write_allava, {"train": 7}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_built_and_read_back_with_nothing_rejected(tmp_path, name):
  write, counts = SOURCES[name]
  write(tmp_path / "src")
  builder = registry.make(name)
  folder = build(builder, tmp_path / "src", tmp_path / "out")
  for split, count in counts.items():
    source = open_source(f"tfds:{folder}", split)
    assert list(source.rejected()) == []
    sources = [r.source for r in map(source.load, range(len(source)))]
    assert sources == [builder.card.name] * count


@pytest.mark.parametrize("name", SOURCES)
def test_a_card_says_what_tfds_and_a_newcomer_need(name):
  card = registry.make(name).card
  assert card.name == name.replace("+", "_plus")  # TFDS allows no "+"
  assert card.citation.count("@") == card.citation.count("year={")
  for text in (card.title, card.description, card.licence, card.layout):
    assert text.strip()
  assert card.homepage.startswith("https://")
