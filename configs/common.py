"""What configs share: option parsing and the full set of fields with their defaults."""

import difflib

import ml_collections

from miras_jax.errors import UserError


def parse(arg, **defaults):
  """ "size=tiny,n=3" over `defaults` -> dict; values take their default's type.

  Raises UserError for an unknown option or a value of another type.
  """
  options = dict(defaults)
  for item in filter(None, (arg or "").split(",")):
    name, equals, text = item.partition("=")
    if name not in defaults:
      close = difflib.get_close_matches(name, defaults, n=1, cutoff=0.0)
      hint = f"did you mean {close[0]!r}?" if close else "this config takes none"
      raise UserError(f"unknown config option {name!r}; {hint}")
    kind = type(defaults[name])
    if kind is bool and not equals:
      text = "true"
    try:
      options[name] = _BOOLS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
      raise UserError(
        f"config option {name}={text!r}: want {kind.__name__},"
        f" e.g. {name}={defaults[name]}"
      ) from None
  return options


_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def base_config():
  """Every field a run has; a config file changes what differs from this page."""
  c = ml_collections.ConfigDict()
  c.model = dict(
    variant="tiny",  # a row of miras_jax.config.variants.VARIANTS
    overrides=dict(),  # fields of it that differ: {"llama": {"lora_rank": 8}}
    dtype="float32",  # of the arithmetic, and of what is frozen
  )
  c.data = dict(
    dir="",  # PRIST's layout; has to be given
    images_dir="",  # when the photographs or annotations lie elsewhere
    masks_dir="",
    split_train="train",
    split_eval="val",
    limit=0,  # trains on the first so many conversations; 0: on all
    tokenizer="bpe",  # or the path of a tokenizer.model or a tokenizer folder
    vocab_size=1024,  # at most, for "bpe"
    template="llava_v1",  # of the conversation: input_pipeline/templates.py
    system="",  # system prompt; "" takes the template's own
    name_targets=True,  # answers read "[OBJ]name[SEG]"
    view="letterbox",  # or "center_crop", as published
    max_len=0,  # tokens in a row, image slots included; 0: as the data need
    max_masks=2,  # [SEG]s in a row
    pack=1,  # conversations about one image that share a row, at most
    talk_len=0,  # tokens of one conversation in eval and chat; 0: as the longest needs
    threads=0,  # that prepare examples ahead; 0: the training thread itself
    in_memory=False,  # keeps prepared examples: quickest for a small data set
    cache="",  # folder of `miras data cache`: the frozen encoders do not run
  )
  c.mesh = dict(dcn_data=1, data=-1, fsdp=1, tensor=1, sequence=1)
  # Other processes; empty: the environment tells (miras_jax/parallel/distributed.py).
  c.distributed = dict(coordinator="", processes=0, process=-1)
  c.distributed.update(heartbeat_s=20, join_s=300)
  c.optim = dict(
    name="adamw",  # or "muon": matrices by Muon at muon_lr, the rest by AdamW at lr
    lr=3e-4,
    muon_lr=5e-3,
    schedule="linear",
    warmup_steps=100,
    b1=0.9,
    b2=0.95,
    weight_decay=0.0,
    clip_norm=1.0,
    ema=0.0,
    accumulation=1,
  )
  c.loss = dict(
    preset="paper",  # a row of losses.LOSS_PRESETS; a number here wins over it
    token_ce=ml_collections.config_dict.placeholder(float),
    mask_bce=ml_collections.config_dict.placeholder(float),
    dice=ml_collections.config_dict.placeholder(float),
    focal=ml_collections.config_dict.placeholder(float),
    boundary=ml_collections.config_dict.placeholder(float),
    dice_scale=ml_collections.config_dict.placeholder(float),
    focal_form=ml_collections.config_dict.placeholder(str),
    boundary_form=ml_collections.config_dict.placeholder(str),
    loss_resolution=64,  # pixels of the square canvas on which masks are compared
  )
  c.trainable = "lora_heads"  # a preset of trees.TRAINABLE, "+more" added to it
  c.init_from = ""  # folder of `miras convert`: its weights, model and tokenizer
  c.steps = 1000
  c.batch_size = 16  # rows of all devices together
  c.seed = 0
  c.checkpoint_every = 500
  c.keep = 3  # newest checkpoints
  c.log_every = 20  # steps between points in TensorBoard; metrics.jsonl has all
  c.probe_every = 100  # steps between losses on a held-out batch
  c.max_skipped = 10  # steps without a finite loss or gradient, in a row, end the run
  c.compile_cache = ""  # folder of compiled programs, kept between runs
  return c


# Side of the loss canvas where it is not 256: it divides the SAM canvas.
_LOSS_CANVAS = {"tiny": 32, "small": 128}
SIZES = ("7b", "13b", "34b", "70b", "1b", "small", "tiny")


def lora_config(size, attention):
  """What both published stages share: LoRA on q and v, trained heads, batch 8 x 10.

  From size 1b on: bfloat16, everything rematerialised, weights sharded over all devices
  (`mesh.data=-1 mesh.fsdp=1` is faster where the frozen weights fit whole).
  """
  if size not in SIZES:
    raise UserError(f"config option size={size!r}: there are {', '.join(SIZES)}")
  large = size not in _LOSS_CANVAS
  c = base_config()
  c.model.variant = size
  lora = dict(lora_rank=8, lora_alpha=16.0, lora_dropout=0.05)
  c.model.overrides = {"llama": lora}
  c.loss.loss_resolution = _LOSS_CANVAS.get(size, 256)
  c.trainable = "lora_heads"
  c.optim.update(name="adamw", lr=3e-4, warmup_steps=100, b1=0.9, b2=0.95)
  c.optim.update(weight_decay=0.0, clip_norm=1.0, schedule="linear", accumulation=10)
  c.batch_size = 8 * c.optim.accumulation
  if large:
    c.model.dtype = "bfloat16"
    c.model.overrides.llama.update(remat="full", attention=attention)
    c.mesh.update(data=1, fsdp=-1)
    c.data.tokenizer = "tokenizer.model"  # of the language model
    c.data.threads = 8
  return c
