"""A frozen dataclass for each part of the model; variants.py has the sizes.

Widths are channel counts, sizes are pixels. Every dataclass checks itself; the model
never sees an ml_collections.ConfigDict.
"""

import dataclasses
import math

from miras_jax.config.fields import setting

# Bounds of the numbers that are no sizes, (least, below); a size is 1 to LARGEST.
BOUNDS = {
  "select_layer": (-math.inf, math.inf),  # checked against the depth
  "global_layers": (0, math.inf),
  "lora_rank": (0, math.inf),
  "lora_dropout": (0, 1),
  "layer_scale_init": (0, math.inf),
  "norm_offset": (-math.inf, math.inf),
  "lora_alpha": (-math.inf, math.inf),
}
LARGEST = 2**24
MOST_LAYERS = 1000  # loops in Python are unrolled: more would never end


def _check(condition, message):
  if not condition:
    raise ValueError(message)


def most(field: str) -> int:
  """The largest whole number that a field of the model may hold."""
  return MOST_LAYERS if field in ("depth", "depths", "iou_depth") else LARGEST


def _check_numbers(part):
  """ValueError naming the first number of a part that is out of its bounds.

  Sizes are whole numbers of at least 1; other numbers are positive, or in BOUNDS.
  """
  for field in dataclasses.fields(part):
    value = getattr(part, field.name)
    for number in value if isinstance(value, tuple) else (value,):
      if isinstance(number, bool) or not isinstance(number, int | float):
        continue
      where = f"{field.name}={value}"
      if field.name in BOUNDS:
        least, below = BOUNDS[field.name]
        _check(number >= least, f"{where} must be at least {least}")
        _check(number < below, f"{where} must be less than {below}")
      elif isinstance(number, int):
        _check(number >= 1, f"{where} must be at least 1")
        _check(
          number <= most(field.name), f"{where} must be at most {most(field.name)}"
        )
      else:
        _check(0 < number < math.inf, f"{where} must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
  """CLIP ViT tower. `select_layer=-2` reads the second-last hidden state;
  `activation`: OpenAI's towers have quick_gelu, most of OpenCLIP's the exact gelu."""

  width: int
  mlp_width: int
  depth: int
  num_heads: int
  image_size: int
  patch_size: int
  norm_eps: float = 1e-5
  select_layer: int = -2
  activation: str = "quick_gelu"
  scan_blocks: bool = False  # as loops: minutes less to compile (models/blocks.py)

  def __post_init__(self):
    _check_numbers(self)
    _check(self.width % self.num_heads == 0, f"{self.width=} / {self.num_heads=}")
    _check(
      self.image_size % self.patch_size == 0,
      f"{self.image_size=} is not a multiple of {self.patch_size=}",
    )
    _check(
      self.activation in CLIP_ACTIVATIONS,
      f"clip.activation {self.activation!r} is not in {CLIP_ACTIVATIONS}",
    )
    _check(
      -self.depth - 1 <= self.select_layer <= self.depth,
      f"{self.select_layer=} is outside the {self.depth} blocks",
    )

  @property
  def grid(self):
    return self.image_size // self.patch_size

  @property
  def num_tokens(self):
    return self.grid**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNextConfig:
  """ConvNeXt tower: stem and four stages, all resized to `target_grid` squared."""

  dims: tuple[int, int, int, int]
  depths: tuple[int, int, int, int]
  image_size: int
  target_grid: int
  kernel_size: int = 7
  mlp_ratio: int = 4
  norm_eps: float = 1e-6
  layer_scale_init: float = 1e-6
  scan_blocks: bool = False  # see ClipConfig

  def __post_init__(self):
    _check_numbers(self)
    _check(len(self.dims) == len(self.depths) == 4, f"{self.dims=}, {self.depths=}")
    _check(self.image_size % 32 == 0, f"{self.image_size=} is not a multiple of 32")
    _check(self.kernel_size % 2 == 1, f"{self.kernel_size=} must be odd")

  @property
  def out_channels(self):
    return sum(self.dims)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
  """Rotary scaling: `linear` (Vicuna 16k style) or `llama3` (Llama 3.1)."""

  kind: str
  factor: float
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_positions: int = 8192

  def __post_init__(self):
    _check_numbers(self)
    _check(self.kind in ("linear", "llama3"), f"unknown rope scaling {self.kind=}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
  """A decoder: sizes, the features that its family has (families/), how it is run.

  qk_norm      an RMS norm of each head of queries and keys, before the rotation
  activation   of the mlp's gate
  norm_offset  what is added to the stored scale of every norm
  embed_scale  token embeddings times sqrt(width)
  """

  width: int
  mlp_width: int
  depth: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  norm_eps: float = 1e-5
  qkv_bias: bool = False
  qk_norm: bool = False
  activation: str = "silu"
  norm_offset: float = 0.0
  embed_scale: bool = False
  tie_embeddings: bool = False
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_dropout: float = 0.0
  lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
  remat: str = setting("none", "what is computed again", may_change=True)
  attention: str = setting("xla", "models/attention.py", may_change=True)
  # Few small layers run faster unrolled.
  scan_unroll: int = setting(1, "layers a turn of the loop", may_change=True)
  # False in inference: each layer's weights apart, no loop (`inference/prepare.py`).
  stacked: bool = True

  def __post_init__(self):
    _check_numbers(self)
    _check(
      self.num_heads % self.num_kv_heads == 0,
      f"{self.num_heads=} is not a multiple of {self.num_kv_heads=}",
    )
    _check(self.head_dim % 2 == 0, f"rotary needs an even {self.head_dim=}")
    _check(self.remat in REMAT_POLICIES, f"{self.remat=} is not in {REMAT_POLICIES}")
    _check(self.attention in ATTENTIONS, f"{self.attention=} is not in {ATTENTIONS}")
    _check(
      self.activation in ACTIVATIONS, f"{self.activation=} is not in {ACTIVATIONS}"
    )


REMAT_POLICIES = ("none", "minimal", "dots", "full", "offload")
ATTENTIONS = ("xla", "blocked", "jax", "cudnn", "splash")  # models/attention.py
ACTIVATIONS = ("silu", "gelu_tanh")
CLIP_ACTIVATIONS = ("quick_gelu", "gelu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamEncoderConfig:
  """SAM ViT: windowed attention except in `global_layers`, relative positions."""

  image_size: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  global_layers: tuple[int, ...]
  window_size: int
  out_width: int
  mlp_ratio: int = 4
  norm_eps: float = 1e-6
  neck_norm_eps: float = 1e-6
  scan_blocks: bool = False  # see ClipConfig
  fine: bool = False  # features finer than a patch: see models/fine_features.py

  def __post_init__(self):
    _check_numbers(self)
    _check(self.width % self.num_heads == 0, f"{self.width=} / {self.num_heads=}")
    _check(
      self.image_size % self.patch_size == 0,
      f"{self.image_size=} is not a multiple of {self.patch_size=}",
    )
    _check(
      not self.fine or self.patch_size % 4 == self.out_width % 8 == 0,
      f"fine: {self.patch_size=} / 4 and {self.out_width=} / 8",
    )
    _check(
      all(0 <= i < self.depth for i in self.global_layers),
      f"{self.global_layers=} outside {self.depth=}",
    )

  @property
  def grid(self):
    return self.image_size // self.patch_size

  @property
  def feature_width(self):
    """Channels of `sam_features`: the neck's, and three times as many finer ones."""
    return self.out_width * (4 if self.fine else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamDecoderConfig:
  """SAM prompt encoder and mask decoder; `width` is the encoder's `out_width`."""

  width: int
  depth: int
  mlp_width: int
  num_heads: int
  mask_channels: int
  iou_width: int
  iou_depth: int = 3
  num_multimask: int = 3
  presence: bool = False  # a token tells whether what is meant is there: sam_decoder.py
  attention_downsample: int = 2
  norm_eps: float = 1e-5
  upscale_norm_eps: float = 1e-6

  def __post_init__(self):
    _check_numbers(self)
    for down in (1, self.attention_downsample):
      _check(
        self.width % (down * self.num_heads) == 0,
        f"{self.width=} does not divide into {self.num_heads=} at 1/{down}"
        " (attention_downsample)",
      )
    _check(self.mask_channels >= 4, f"{self.mask_channels=} must be at least 4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegPromptConfig:
  """[SEG] state -> mask prompt.

  `seg_state`: "predict" reads the state one position before [SEG] (published), "at"
  the state of [SEG] itself. `alignment`: "none", "residual" (starts as plain [SEG]) or
  "published" (the attention output replaces [SEG]).
  """

  out_width: int
  num_heads: int = 8
  seg_state: str = "predict"
  alignment: str = "residual"

  def __post_init__(self):
    _check_numbers(self)
    _check(self.seg_state in ("predict", "at"), f"unknown {self.seg_state=}")
    _check(
      self.alignment in ("none", "residual", "published"), f"unknown {self.alignment=}"
    )
    _check(
      self.out_width % self.num_heads == 0, f"{self.out_width=} / {self.num_heads=}"
    )


PROJECTORS = ("mlp2x_gelu", "linear")
ENCODERS = ("dual", "shared", "sam_only")
# Earlier masks: models/state/.
STATES, MOST_SLOTS = ("none", "tokens", "dense", "both"), 64
SLOT_TOKENS = 4  # of the language model, of an earlier mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirasConfig:
  """The whole model. `encoder`, what image tokens are made of: "dual", CLIP's tokens
  that mine ConvNeXt's features (published); "shared", CLIP's that mine SAM's; or
  "sam_only", SAM's on a grid of `token_grid` a side (0: as CLIP's). The latter have no
  ConvNeXt, whatever the size says; `convnext=None` leaves it and the mining out of the
  first, as LISA. `projector`: image tokens to the decoder's width, published as
  `mlp2x_gelu` or, in LISA and the first LLaVA, as one `linear` layer. `state`: what
  later turns see of earlier masks, "none" (published), "tokens" of the language model,
  "dense", the mask prompt of SAM's decoder, or "both"; `state_slots`: of how many
  masks, the latest (models/state/).
  """

  clip: ClipConfig
  convnext: ConvNextConfig | None
  llama: LlamaConfig
  sam_encoder: SamEncoderConfig
  sam_decoder: SamDecoderConfig
  seg_prompt: SegPromptConfig
  projector: str = "mlp2x_gelu"
  encoder: str = "dual"
  token_grid: int = 0
  state: str = "none"
  state_slots: int = 8

  def __post_init__(self):
    _check(self.state in STATES, f"{self.state=} is not there: there are {STATES}")
    few = 1 <= self.state_slots <= MOST_SLOTS
    _check(few, f"{self.state_slots=} is not 1 to {MOST_SLOTS}")
    _check(self.projector in PROJECTORS, f"{self.projector=} is not in {PROJECTORS}")
    _check(self.encoder in ENCODERS, f"{self.encoder=} is not in {ENCODERS}")
    if self.encoder != "dual":
      object.__setattr__(self, "convnext", None)
    self._check_token_grid()
    widths = (
      self.sam_encoder.out_width,
      self.sam_decoder.width,
      self.seg_prompt.out_width,
    )
    _check(len(set(widths)) == 1, f"SAM widths differ: {widths}")
    if self.convnext:
      _check(
        self.convnext.target_grid % self.clip.grid == 0,
        f"{self.convnext.target_grid=} is not a multiple of {self.clip.grid=}",
      )

  def _check_token_grid(self):
    only, most = self.encoder == "sam_only", self.sam_encoder.grid
    _check(only or not self.token_grid, f"{self.token_grid=} is of encoder='sam_only'")
    _check(
      not only or 0 <= self.token_grid and self.image_grid <= most,
      f"{self.image_grid} image tokens a side (token_grid), SAM has {most}",
    )

  @property
  def has_dense_state(self):
    """Whether SAM's decoder sees earlier masks."""
    return self.state in ("dense", "both")

  @property
  def slot_tokens(self):
    """Tokens of an earlier mask that the language model reads; 0: none."""
    return SLOT_TOKENS if self.state in ("tokens", "both") else 0

  @property
  def image_grid(self):
    """Image tokens a side."""
    return self.token_grid or self.clip.grid

  @property
  def num_image_tokens(self):
    return self.image_grid**2

  @property
  def mined_grid(self):
    """Cells a side of what each image token mines its own of; 0: nothing is mined."""
    if self.encoder == "shared":  # at least as fine as SAM's own
      return self.clip.grid * -(-self.sam_encoder.grid // self.clip.grid)
    return self.convnext.target_grid if self.convnext else 0

  @property
  def mined_channels(self):
    """Channels of what is mined."""
    shared = self.encoder == "shared"
    return self.sam_encoder.out_width if shared else self.convnext.out_channels

  @property
  def mask_side(self):
    """Cells a side of the masks that SAM's decoder makes, and of earlier ones."""
    return 4 * self.sam_encoder.grid

  @property
  def aux_size(self):
    """Pixels a side of the view beside SAM's; 0: nothing looks at one."""
    if self.encoder == "sam_only":
      return 0
    return self.convnext.image_size if self.convnext else self.clip.image_size
