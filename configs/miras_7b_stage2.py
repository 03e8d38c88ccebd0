"""Stage 2, as published: conversations that end in a mask, 100 x 250 steps of batch 8.

  miras train --config=configs/miras_7b_stage2.py --workdir=runs/stage2 \\
      --config.init_from=runs/stage1 --config.data.dir=DIR
  miras scale --config=configs/miras_7b_stage2.py --topology=v5e:4x4 --out=scale

The release mixes two questions into every ten multi-turn conversations. DIR holds both
data sets, `prist` and `llava_instruct_150k`, as `miras data build` makes them; a folder
in PRIST's layout alone is `--config.mixture=none --config.data.dir=PRIST`.
"""

from configs import common
from input_pipeline.mixtures import PRESETS


def get_config(arg: str = ""):
  """`:size=7b|13b|34b|70b|1b|small|tiny,attention=splash|xla|cudnn`."""
  opts = common.parse(arg, size="7b", attention="splash")
  c = common.lora_config(**opts)
  c.mixture = PRESETS["stage2"]
  c.loss.preset = "stage2_code"  # 1.0 tokens + 0.5 dice + 1.0 focal + 0.5 boundary
  c.data.pack = 3  # conversations of an image in one row; published: each in its own
  c.data.max_len = 1536 if c.model.dtype == "bfloat16" else 0
  c.data.max_masks = 6
  c.steps = 100 * 250
  c.checkpoint_every = 250
  return c
