"""FLOPs of one example (a row of a batch), from the configs alone.

Every matrix product counts 2 x its multiply-adds. A part of forward cost f costs
  f         always;
  f more    for gradients of its inputs, when anything before it trains (embeddings, the
            adapters of a lower layer): twice that for products of two activations
            (attention), which have two inputs;
  f more    for gradients of its weights, when they train.
So frozen towers count forward only, frozen decoder weights forward and activation
gradients, and what trains three times. Causal attention counts T (T + 1) / 2 pairs.
What rematerialisation computes again is listed apart: it is work, not progress.
Element-wise work (norms, softmax, activations, the optimizer) is not counted.

T tokens, N patches, D width, F mlp width, G side of a grid, M masks, R LoRA rank.
"""

import dataclasses
import re
from typing import NamedTuple

from input_pipeline.slots import fill
from miras_jax.config.lanes import extra_width
from miras_jax.models import trees
from miras_jax.models.state import flops as state_flops


class Unit(NamedTuple):
  """Part of a forward pass; `pairs`: product of two activations, no weights."""

  path: str  # of the parameters it reads, or where it sits
  flops: float
  pairs: bool = False
  again: float = 0.0  # of its forward cost, what the backward pass computes again

  @property
  def group(self):
    head, _, rest = self.path.partition("/")
    return {"sam": f"sam/{rest.split('/')[0]}"}.get(head, head)


# What a feature cache holds: feature -> the parts whose result it is.
FEATURES = {
  "image_tokens": ("clip", "convnext", "mining", "projector"),
  "sam_features": ("sam/encoder", "sam/fine"),
}
ENCODERS = sum(FEATURES.values(), ())
READ = ("seg_prompt", "sam/decoder", "state/")


def of_masks(cfg) -> tuple[str, ...]:
  """The parts of a MirasConfig that make masks and nothing else."""
  shared = () if cfg.encoder == "dual" and not cfg.slot_tokens else ("sam/encoder",)
  parts = ("seg_prompt", "sam/encoder", "sam/fine", "sam/prompt_encoder", "sam/decoder")
  parts += ("state",)
  return tuple(part for part in parts if part not in shared)


# Where an encoder begins, and what reads the results of several.
STARTS = (
  "clip/patch_embed/kernel",
  "convnext/stem/conv/kernel",
  "sam/encoder/patch_embed/kernel",
  "sam/fine/conv4/kernel",
)
MEETINGS = ("mining/", "projector/", "sam/decoder")


class Flops(NamedTuple):
  """FLOPs of one example. `useful` is what MFU counts, `executed` includes `again`."""

  forward: float
  backward: float
  again: float
  parts: dict  # group -> useful FLOPs

  @property
  def useful(self):
    return self.forward + self.backward

  @property
  def executed(self):
    return self.useful + self.again


def example(config, *, program="train", context=None, cached=False, features=FEATURES):
  """Flops of one row of a fitted RunConfig (`data.max_len` set).

  cached: image tokens and SAM features come from a feature cache.

  program: train, eval (no backward), cache and encode (`features` of an image),
  prefill (the decoder on a whole row, no head; the last layer gives keys and values of
  all tokens and the rest of one), decode (one token against `context`
  cached ones), read (masks, without the states that an alignment looks at). What
  answers has its adapters merged.
  """
  cfg, data = config.model.build(), config.data
  if program in ("prefill", "decode"):
    cfg = dataclasses.replace(cfg, llama=dataclasses.replace(cfg.llama, lora_rank=0))
  if program == "decode":
    units = decode_units(cfg, context or data.max_len)
  else:
    length = 1 if program == "read" else data.max_len
    units = forward_units(cfg, length, data.max_masks)
    if program in ("train", "eval"):
      units = _with_slots(cfg, units, data.max_masks)
    if cached:
      units = [u for u in units if u.group not in ENCODERS]
    if program in ("cache", "encode"):
      made = sum((FEATURES[name] for name in features), ())
      units = [u for u in units if u.group in made]
    if program == "read":
      units = [u for u in units if u.path.startswith(READ)]
    if program == "prefill":
      units = prefill_units(cfg.llama, length)
  if program == "train":
    return _train(units, config.trainable)
  return _total([(u, u.flops, 0.0, 0.0) for u in units])


def forward_units(cfg, length, masks):
  """Units of the whole model in the order in which gradients pass them."""
  units = _image_units(cfg)
  width = cfg.llama.width
  units.append(_projector(cfg))
  units.append(Unit("llm/embed/embedding", 0.0))
  units += _llama(cfg.llama, length)
  head = 2 * length * width * cfg.llama.vocab_size
  # The loss computes its logits again in the backward pass instead of keeping them.
  units.append(Unit("llm/lm_head/kernel", head, again=head))
  units += _seg_prompt(cfg.seg_prompt, width, length, masks)
  if cfg.encoder == "dual":
    units += _sam_encoder(cfg.sam_encoder)
  units += [Unit(*part) for part in state_flops.parts(cfg, masks)]
  grid, shared = cfg.sam_encoder.grid, not cfg.has_dense_state
  units += sam_decoder(cfg.sam_decoder, grid, masks, shared=shared)
  return units


def _with_slots(cfg, units, masks):
  """The masks that dense slots take without a gradient, and those decoded again."""
  decoder, grid = cfg.sam_decoder, cfg.sam_encoder.grid
  if cfg.state != "none":
    again = sam_decoder(decoder, grid, masks)
    units = [*units, *(unit._replace(again=unit.flops) for unit in again)]
  if not cfg.has_dense_state:
    return units
  made = sam_decoder(decoder, grid, fill.most_own(masks))
  own = sum(unit.flops for unit in made)
  first = Unit("state/own", own, pairs=True)  # in front: nothing below it trains
  return [first, *units]


def _image_units(cfg):
  """What image tokens are made of, before the projector."""
  if cfg.encoder == "sam_only":
    return _sam_encoder(cfg.sam_encoder)
  units = [] if cfg.encoder == "dual" else _sam_encoder(cfg.sam_encoder)
  units += _clip(cfg.clip)
  units += _convnext(cfg.convnext) if cfg.convnext else []
  return units + (_mining(cfg) if cfg.mined_grid else [])


def prefill_units(llama, length):
  """All layers but the last on a row; of that keys and values, and one token's rest."""
  units = [
    u._replace(flops=u.flops * (llama.depth - 1) / llama.depth)
    for u in _llama(llama, length)
  ]
  for name, flops in _projections(llama).items():
    rows = length if name.startswith(("attn/k_proj", "attn/v_proj")) else 1
    units.append(Unit(f"llm/layers/{name}/kernel", rows * flops))
  scores = 4 * length * llama.num_heads * llama.head_dim
  return [*units, Unit("llm/layers/attn", scores, pairs=True)]


def decode_units(cfg, context):
  """One new token: decoder and head, attention over `context` cached tokens."""
  llama, units = cfg.llama, []
  for name, flops in _projections(llama).items():
    units.append(Unit(f"llm/layers/{name}/kernel", llama.depth * flops))
  scores = 4 * context * llama.num_heads * llama.head_dim * llama.depth
  units.append(Unit("llm/layers/attn", scores, pairs=True))
  return [*units, Unit("llm/lm_head/kernel", 2 * llama.width * llama.vocab_size)]


def _train(units, trainable):
  paths = [u.path for u in units]
  patterns = trees.patterns_for(trainable, paths)

  def trains(unit):
    named = not unit.pairs and any(re.search(p, unit.path) for p in patterns)
    return named and not re.search(trees.NEVER, unit.path)

  rows, above = [], False  # above: something before this unit trains
  beside = False  # the same, on the other ways to where they meet
  for unit in units:
    if unit.path in STARTS:
      above, beside = False, beside or above
    if unit.path.startswith(MEETINGS):
      above = above or beside
    backward = (2 if unit.pairs else 1) * unit.flops * above
    backward += unit.flops * trains(unit)
    above = above or trains(unit)
    rows.append((unit, unit.flops, backward, unit.again if backward else 0.0))
  return _total(rows)


def _total(rows):
  parts = {}
  for unit, forward, backward, _ in rows:
    parts[unit.group] = parts.get(unit.group, 0.0) + forward + backward
  sums = [float(sum(r[i] for r in rows)) for i in (1, 2, 3)]
  return Flops(*sums, parts={k: v for k, v in parts.items() if v})


def _projections(cfg):
  """{name: FLOPs a token and layer} of the decoder's weight products."""
  query, key = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
  shapes = {"attn/q_proj": (cfg.width, query), "attn/k_proj": (cfg.width, key)}
  shapes |= {"attn/v_proj": (cfg.width, key), "attn/o_proj": (query, cfg.width)}
  shapes |= {f"mlp/{n}_proj": (cfg.width, cfg.mlp_width) for n in ("gate", "up")}
  shapes["mlp/down_proj"] = (cfg.mlp_width, cfg.width)
  out = {name: 2 * a * b for name, (a, b) in shapes.items()}
  for name, (a, b) in shapes.items():
    if name.split("/")[1] in cfg.lora_targets and cfg.lora_rank:
      out[f"{name}/lora_a"] = 2 * a * cfg.lora_rank
      out[f"{name}/lora_b"] = 2 * b * cfg.lora_rank
  return out


def _llama(cfg, length):
  """All layers together, LoRA first: its gradient needs nothing from below."""
  units, recompute = [], cfg.remat in ("full", "offload")
  for name, flops in _projections(cfg).items():
    path = f"llm/layers/{name}" + ("" if "lora_" in name else "/kernel")
    total = flops * length * cfg.depth
    # The last product of a layer is never needed again.
    again = total if recompute and name != "mlp/down_proj" else 0.0
    units.append(Unit(path, total, again=again))
  pairs = length * (length + 1) / 2
  scores = 4 * pairs * cfg.num_heads * cfg.head_dim * cfg.depth
  again = _scores_again(cfg, length, scores)
  units.append(Unit("llm/layers/attn", scores, pairs=True, again=again))
  return sorted(units, key=lambda u: "lora_" in u.path, reverse=True)


def _scores_again(cfg, length, scores):
  """Attention products beyond the 2 forward and 4 backward that count.

  `dots` computes q k again, `full` the weighted sum too. The splash kernels compute q k
  twice and do v once more in their two backward passes, with wider heads.
  """
  if cfg.attention != "splash":
    skipped = _dense_extra(cfg.attention, length) * scores
    passes = {"none": 0, "minimal": 0, "dots": 0.5}.get(cfg.remat, 1)
    return passes * (scores + skipped) + 3 * skipped
  H = cfg.head_dim
  wide = H + extra_width(H)
  forward = (wide + H) / (2 * H)
  kernels = forward * (cfg.remat != "none") + (4 * wide + 3 * H) / (2 * H) - 2
  return scores * (kernels + forward - 1)


def _dense_extra(attention, length):
  """Share of masked pairs that are computed all the same, beside the causal ones."""
  if attention == "blocked":
    from miras_jax.models.attention import MAX_BLOCKS, MIN_BLOCK

    block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    return (
      sum(
        (min(s + block, length) - s) * min(s + block, length)
        for s in range(0, length, block)
      )
      / (length * (length + 1) / 2)
      - 1
    )
  return 2 * length / (length + 1) - 1


def _clip(cfg):
  N, D = cfg.num_tokens, cfg.width
  units = [Unit("clip/patch_embed/kernel", 2 * N * 3 * cfg.patch_size**2 * D)]
  T = N + 1
  for i in range(cfg.depth + 1 + cfg.select_layer):
    name = f"clip/layer_{i:02d}"
    weights = 2 * T * (4 * D * D + 2 * D * cfg.mlp_width)
    units.append(Unit(f"{name}/attn/q_proj/kernel", weights))
    units.append(Unit(f"{name}/attn", 4 * T * T * D, pairs=True))
  return units


def _convnext(cfg):
  side, dims = cfg.image_size // 4, cfg.dims
  units = [Unit("convnext/stem/conv/kernel", 2 * side**2 * 48 * dims[0])]
  for i, (C, depth) in enumerate(zip(dims, cfg.depths, strict=True)):
    name = f"convnext/stage_{i}"
    if i:
      side //= 2
      flops = 2 * side**2 * 4 * dims[i - 1] * C
      units.append(Unit(f"{name}/downsample/conv/kernel", flops))
    for j in range(depth):
      flops = 2 * side**2 * C * (cfg.kernel_size**2 + 2 * cfg.mlp_ratio * C)
      units.append(Unit(f"{name}/block_{j:02d}/fc1/kernel", flops))
  return units


def _mining(cfg):
  """Folded form (`fusion.PatchMining`): the projections act on one cell a patch."""
  N, D, C = cfg.clip.num_tokens, cfg.clip.width, cfg.mined_channels
  cells = (cfg.mined_grid // cfg.clip.grid) ** 2
  return [
    Unit("mining/query_proj/kernel", 2 * N * D * (D + C)),
    Unit("mining", 4 * N * cells * C, pairs=True),
    Unit("mining/value_proj/kernel", 2 * N * C * D),
  ]


def _projector(cfg):
  """Both layers as one unit, or the only one."""
  N, width = cfg.num_image_tokens, cfg.llama.width
  sam_only = cfg.encoder == "sam_only"
  before = cfg.sam_encoder.out_width if sam_only else cfg.clip.width
  if cfg.projector == "linear":
    return Unit("projector/linear/kernel", 2 * N * width * before)
  return Unit("projector/fc1/kernel", 2 * N * width * (before + width))


def _seg_prompt(cfg, width, length, masks):
  rows = masks if cfg.alignment == "none" else length
  C = cfg.out_width
  units = [Unit("seg_prompt/text_fc1/kernel", 2 * rows * width * (width + C))]
  if cfg.alignment != "none":
    units.append(Unit("seg_prompt/align/k_proj/kernel", 4 * length * C * C))
    units.append(Unit("seg_prompt/align/q_proj/kernel", 6 * masks * C * C))
    units.append(Unit("seg_prompt/align", 4 * masks * length * C, pairs=True))
  return units


def _sam_encoder(cfg):
  G, D = cfg.grid, cfg.width
  units = [Unit("sam/encoder/patch_embed/kernel", 2 * G**2 * 3 * cfg.patch_size**2 * D)]
  for i in range(cfg.depth):
    name = f"sam/encoder/block_{i:02d}"
    side = G if i in cfg.global_layers else cfg.window_size
    cells = (-(-G // side) * side) ** 2  # windows pad the grid
    flops = 2 * cells * 4 * D * D + 2 * G**2 * 2 * cfg.mlp_ratio * D * D
    units.append(Unit(f"{name}/attn/qkv/kernel", flops))
    pairs = cells * (4 * side**2 + 4 * side) * D
    units.append(Unit(f"{name}/attn", pairs, pairs=True))
  O = cfg.out_width  # noqa: E741
  units.append(Unit("sam/encoder/neck/conv1/kernel", 2 * G**2 * (D * O + 9 * O * O)))
  if cfg.fine:
    flops = 2 * 16 * G**2 * (9 * 3 * (cfg.patch_size // 4) ** 2 + O // 8) * (O // 4)
    flops += 2 * 4 * G**2 * (O + O // 4) * (O // 2)
    units.append(Unit("sam/fine/conv4/kernel", flops))
  return units


def sam_decoder(cfg, grid, masks, *, shared=True) -> list[Unit]:
  """Six tokens a mask or seven; the first layer's image side may be shared by all."""
  C, S = cfg.width, grid**2
  t = cfg.num_multimask + 3 + cfg.presence
  inner = C // cfg.attention_downsample
  image = cross = tokens = 0
  for i in range(cfg.depth):
    copies = masks if i or not shared else 1
    image += copies * 3 * 2 * S * C * inner  # k and v of the tokens, q of the image
    image += masks * 2 * S * inner * C  # out
    cross += masks * 2 * 4 * t * S * inner
    tokens += masks * t * 2 * (4 * C * C + 4 * C * inner + 2 * C * cfg.mlp_width)
  image += masks * 2 * 2 * S * C * inner
  cross += masks * 4 * t * S * inner
  upscale = masks * 2 * S * C * C + masks * 2 * 4 * S * (C // 4) * (C // 2)
  product = masks * 2 * 16 * S * (C // 8)
  return [
    Unit("sam/decoder/transformer/kernel", image + tokens + upscale),
    Unit("sam/decoder/transformer", cross + product, pairs=True),
  ]
