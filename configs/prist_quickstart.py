"""The main job on the embedded data: every part of MIRAS, tiny, trained from scratch.

  miras data synth --out=data/quickstart --conversations=18000 --short=6 --seed=0
  miras train --config=configs/prist_quickstart.py --workdir=runs/quickstart

`--config.data.dir=DIR` trains the same model on any data in PRIST's layout;
`--config.data.limit=16` keeps the first 16 conversations, to see it fit them.
"""

from configs import common


def get_config(arg: str = ""):
  """`:size=tiny` (default) or `:size=small` (about 30M parameters, CPU minutes).

  `:stages`: parts first, with a presence token; docs/start.md has what it reaches.
  """
  opts = common.parse(arg, size="tiny", stages=False)

  c = common.base_config()
  c.model.variant = opts["size"]
  c.model.overrides = dict(
    # From random weights the prompt is learnt sooner from the words of the name alone,
    seg_prompt=dict(alignment="published"),
    # and what is smaller than a patch of the tiny encoder is not guessed.
    sam_encoder=dict(fine=True),
  )
  c.data.dir = "data/quickstart"
  c.data.system = "Chat."  # the published system text would be a third of every row
  # As many as the rendered data have of an image: three conversations, and six short
  # talks, from which words are learnt long before conversations are.
  c.data.pack = 9
  c.data.max_masks = 12
  c.data.in_memory = True
  c.optim.update(
    name="muon", lr=3e-3, muon_lr=7e-3, schedule="cosine", warmup_steps=100, b2=0.99
  )
  c.loss.update(
    token_ce=1.0, mask_bce=2.0, dice=1.0, dice_scale=1.0, iou=0.1, loss_resolution=64
  )
  c.trainable = "full"  # nothing is pretrained here
  c.steps = 1500
  c.batch_size = 16
  c.checkpoint_every = 500
  c.keep = 1
  if opts["stages"]:
    _in_stages(c)
  return c


def _in_stages(c):
  """Half of the steps for parts alone: training/stages.py."""
  c.steps = 2000
  c.stages.parts = 0.5
  # What parts have learnt of a word lies at that word, not before it.
  c.model.overrides.seg_prompt.seg_state = "at"
  c.model.overrides.sam_decoder = dict(presence=True)
