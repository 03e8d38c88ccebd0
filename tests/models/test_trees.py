"""What trains: presets by name, strict patterns, nothing lost by split and merge."""

import jax
import numpy as np
import pytest

from miras_jax.errors import UserError
from miras_jax.models import trees


def tree():
  leaf = np.ones((2, 3), np.float32)
  blocks = {f"layer_{i:02d}": {"fc1": {"kernel": leaf}} for i in range(4)}
  stages = {
    f"stage_{s}": {f"block_{b:02d}": {"gamma": leaf} for b in range(s + 1)}
    for s in range(2)
  }
  return {
    "clip": blocks | {"pos_embed": leaf},
    "convnext": stages,
    "projector": {"fc1": {"kernel": leaf}},
    "llm": {
      "embed": {"embedding": leaf},
      "layers": {"attn": {"q_proj": {"kernel": leaf, "lora_a": leaf, "lora_b": leaf}}},
      "lm_head": {"kernel": leaf},
    },
    "seg_prompt": {"text_fc1": {"kernel": leaf}},
    "sam": {
      "encoder": {"pos_embed": leaf},
      "prompt_encoder": {"pe": {"gaussian": leaf}, "no_mask_embed": leaf},
      "decoder": {"iou_token": leaf},
    },
  }


def trained(name):
  return set(trees.paths_of(trees.split_by_name(tree(), name)[0]))


def test_lora_heads_is_adapters_embeddings_heads_and_mask_decoder():
  assert trained("lora_heads") == {
    "llm/embed/embedding",
    "llm/layers/attn/q_proj/lora_a",
    "llm/layers/attn/q_proj/lora_b",
    "llm/lm_head/kernel",
    "sam/decoder/iou_token",
    "seg_prompt/text_fc1/kernel",
  }


def test_paper_freezes_the_language_model():
  assert trained("paper") == {"sam/decoder/iou_token", "seg_prompt/text_fc1/kernel"}


def test_full_trains_everything_but_the_fourier_matrix():
  everything = set(trees.paths_of(tree()))
  assert everything - trained("full") == {"sam/prompt_encoder/pe/gaussian"}


def test_suffixes_add_the_upper_clip_half_and_each_stages_last_block():
  added = trained("paper+clip_top_half+convnext_last_blocks") - trained("paper")
  assert added == {
    "clip/layer_02/fc1/kernel",
    "clip/layer_03/fc1/kernel",
    "convnext/stage_0/block_00/gamma",
    "convnext/stage_1/block_01/gamma",
  }


@pytest.mark.parametrize("name, part", [("lora", "lora"), ("paper+clip", "clip")])
def test_an_unknown_name_is_named_with_the_valid_ones(name, part):
  with pytest.raises(UserError, match=rf"{part}.*there are"):
    trees.split_by_name(tree(), name)


def test_a_suffix_for_a_missing_tower_is_refused():
  without = {k: v for k, v in tree().items() if k != "convnext"}
  with pytest.raises(UserError, match="no ConvNeXt"):
    trees.split_by_name(without, "paper+convnext_last_blocks")


def test_a_pattern_that_matches_nothing_is_an_error():
  with pytest.raises(ValueError, match="typo"):
    trees.split(tree(), (r"^seg_prompt/", r"typo"))


def test_merge_of_a_split_is_the_whole_tree():
  whole = trees.merge(*trees.split_by_name(tree(), "lora_heads"))
  assert jax.tree.structure(whole) == jax.tree.structure(tree())


def test_merge_refuses_a_path_in_both_trees():
  with pytest.raises(ValueError, match="lm_head/kernel"):
    trees.merge(tree()["llm"], {"lm_head": {"kernel": 2}})


def test_summary_counts_parameters_of_each_part():
  text = trees.summary(*trees.split_by_name(tree(), "paper"))
  rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}
  assert rows["seg_prompt"] == ["6", "6"] and rows["clip"] == ["30", "0"]
