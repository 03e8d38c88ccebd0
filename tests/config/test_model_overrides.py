"""Any number in place of a size of the model: it is built, or refused in one line."""

import dataclasses

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import ModelChoice, RunConfig
from miras_jax.config.variants import VARIANTS
from miras_jax.errors import UserError

TINY = VARIANTS["tiny"]


def numbers():
  """(dotted name, value) of every number and of every tuple of them."""
  for part in dataclasses.fields(TINY):
    group = getattr(TINY, part.name)
    if not dataclasses.is_dataclass(group):
      continue
    for field in dataclasses.fields(group):
      value = getattr(group, field.name)
      first = value[0] if isinstance(value, tuple) and value else value
      if isinstance(first, int | float) and not isinstance(first, bool):
        yield f"{part.name}.{field.name}", value


NUMBERS = dict(numbers())
MAY_BE = {  # what is no size may be 0 or below
  0: {
    "clip.select_layer", "convnext.layer_scale_init", "sam_encoder.global_layers",
    "llama.norm_offset", "llama.lora_rank", "llama.lora_alpha", "llama.lora_dropout",
  },
  -1: {"clip.select_layer", "llama.norm_offset", "llama.lora_alpha"},
}  # fmt: skip


def choose(name, value):
  like = NUMBERS.get(name)
  value = (value, *like[1:]) if isinstance(like, tuple) else value
  return ModelChoice(variant="tiny", overrides={name: value})


@pytest.mark.parametrize("value", MAY_BE)
@pytest.mark.parametrize("name", NUMBERS)
def test_zero_or_less_is_no_size(name, value):
  if name in MAY_BE[value]:
    choose(name, value)
  else:
    with pytest.raises(UserError, match=f"model.overrides.*{name.split('.')[1]}"):
      choose(name, value)


@pytest.mark.parametrize(
  "name, value",
  [
    ("clip.depth", 10**9),
    ("clip.select_layer", 9),
    ("clip.select_layer", -9),
    ("convnext.kernel_size", 4),
    ("sam_decoder.num_heads", 3),
    ("sam_decoder.attention_downsample", 3),
    ("sam_decoder.mask_channels", 2),
    ("sam_decoder.iou_width", None),
    ("convnext", 5),
    ("llama.rope_scaling", 5),
    ("convnext.dims", ["a", 8, 8, 8]),
  ],
)
def test_what_no_model_is_made_of_is_one_line(name, value):
  with pytest.raises(UserError, match="model.overrides"):
    ModelChoice(variant="tiny", overrides={name: value})


@pytest.mark.parametrize(
  "option, text",
  [
    ("model.overrides", "5"),
    ("model.overrides.seg_prompt.alignment", "{'a': {'b': 1}}"),
    ("model.overrides.llama.rope_scaling", "[[]]"),
    ("loss.dice", "[[]]"),
    ("model.overrides.llama.depth", "[" * 10_000),
  ],
)
def test_option_of_a_wrong_kind_is_one_line(option, text):
  with pytest.raises(UserError, match=option.rpartition(".")[2]):
    config_file.read("prist_quickstart", [(option, text)])


@pytest.mark.parametrize(
  "text",
  [
    "[]",
    "3",
    "null",
    "[" * 100_000,
    '{"model": null}',
    '{"model": []}',
    '{"model": {"overrides": []}}',
    '{"model": {"overrides": {"llama": 5, "llama.depth": 3}}}',
    '{"model": {"variant": []}}',
    '{"nonsense": 1}',
    '{"steps": "many"}',
    '{"data": {"dir": 5}}',
  ],
)
def test_damaged_config_json_is_a_value_error(text):
  """Every reader of a config.json makes a line of these."""
  with pytest.raises((ValueError, TypeError, UserError)):
    RunConfig.from_json(text)
