"""Stage 1, as published: many kinds of segmentation and question data, 10 x 500 steps.

  miras train --config=configs/miras_7b_stage1.py --workdir=runs/stage1 \\
      --config.init_from=converted --config.data.dir=DIR
  miras train --config=configs/miras_7b_stage1.py:size=tiny --workdir=runs/tiny \\
      --config.mixture=none --config.data.dir=data/synth \\
      --config.allow_random=True  # to try the program

The release draws from six kinds of source: semantic segmentation 9, referring
segmentation 6, questions 3, reasoning segmentation 1, captions 3, grounding 6 parts.
Their data sets (input_pipeline/mixtures.json) lie in DIR by their names: `miras data
build NAME --src=... --out=DIR` puts one there, --config.sources.NAME=none does without
it, --config.mixture=NAME:WEIGHT,... is another mixture.
"""

from configs import common
from input_pipeline.mixtures import PRESETS


def get_config(arg: str = ""):
  """`:size=7b|13b|34b|70b|1b|small|tiny,attention=splash|xla|cudnn`."""
  opts = common.parse(arg, size="7b", attention="splash")
  c = common.lora_config(**opts)
  c.trainable = "lora_heads+new"  # and what `miras convert --new=...` added
  c.mixture = PRESETS["stage1"]
  c.loss.preset = "paper"  # 1.0 tokens + 2.0 BCE + 0.5 dice
  c.data.max_len = 2048 if c.model.dtype == "bfloat16" else 0
  c.data.max_masks = 3
  c.steps = 10 * 500
  c.checkpoint_every = 500
  return c
