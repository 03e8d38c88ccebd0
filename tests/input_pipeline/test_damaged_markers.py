"""JSON files that our own commands wrote, damaged since: a line that names them."""

import json

import pytest

from input_pipeline import feature_cache
from input_pipeline.prepare import synth
from miras_jax.errors import UserError

TEXTS = ["", "{", "[" * 100_000, "\0", "[5]", "null"]


@pytest.mark.parametrize("text", TEXTS[:4])
def test_damaged_synth_json_is_named(tmp_path, text):
  (tmp_path / synth.MARKER).write_text(text)
  with pytest.raises(UserError, match="synth.json: damaged"):
    synth.generate(tmp_path, 9, 0)


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"a": ', "5", "null", "{}"])
def test_damaged_split_beside_a_sound_marker_is_named(tmp_path, text):
  recipe = {"conversations": 9, "seed": 0, "recipe": synth.RECIPE}
  (tmp_path / synth.MARKER).write_text(json.dumps(recipe))
  (tmp_path / "train.json").write_text(text)
  with pytest.raises(UserError, match="train.json: damaged"):
    synth.generate(tmp_path, 9, 0)


@pytest.mark.parametrize(
  "text",
  [*TEXTS, "{}", '{"features": 5, "parts": 1}', '{"features": {}, "parts": "x"}'],
)
def test_damaged_cache_json_is_named(tmp_path, text):
  (tmp_path / "cache.json").write_text(text)
  with pytest.raises(UserError, match=str(tmp_path)):
    feature_cache.FeatureCache(tmp_path)


@pytest.mark.parametrize("text", [*TEXTS, "{}", '{"bytes": 4, "images": [5]}'])
def test_damaged_part_of_a_cache_is_named(tmp_path, text):
  (tmp_path / "cache.json").write_text('{"features": {}, "parts": 1}')
  name = feature_cache.part_name(0)
  (tmp_path / f"{name}.array_record").write_bytes(b"none")
  (tmp_path / f"{name}.json").write_text(text)
  with pytest.raises(UserError, match="data.cache="):
    feature_cache.FeatureCache(tmp_path)
