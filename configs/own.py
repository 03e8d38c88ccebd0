"""One's own photographs and labels: the quickstart's model with a finer look at them.

  miras data build own --src=DIR --out=data/own --views=6
  miras train --config=configs/own.py --workdir=runs/own --config.data.dir=data/own

Trained from scratch. SAM's picture has 128 pixels a side where the rendered scenes of
the quickstart need 64: things in photographs are small. Masks are compared at 64.
"""

from configs import common, prist_quickstart


def get_config(arg: str = ""):
  """`:size=tiny` (default) or `:size=small` (about 30M parameters, CPU minutes)."""
  size = common.parse(arg, size="tiny", stages=False)["size"]
  c = prist_quickstart.get_config(arg)
  c.data.dir = "data/own"
  c.data.pack = 6
  c.data.max_masks = 9
  if size == "tiny":
    c.model.overrides.sam_encoder = dict(
      image_size=128, patch_size=8, window_size=8, fine=True
    )
  c.batch_size = 8  # of six conversations each
  c.steps = 2400
  return c
