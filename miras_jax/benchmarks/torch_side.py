"""PyTorch eager's side of the benchmarks, of `transformers` parts.

Importing it needs torch and transformers. `make_step` is the published training step;
see `benchmarks.prist` for what it does.

B conversations, T tokens, N image tokens, P cells under a patch, D decoder width.
"""

import jax
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from miras_jax.errors import UserError

NORM_EPS = 1e-5


def device():
  """Where both sides compute: "cuda" when JAX has a GPU, else "cpu"."""
  if jax.default_backend() != "gpu":
    return "cpu"
  if not torch.cuda.is_available():
    raise UserError(
      "JAX computes on a GPU and this PyTorch cannot: install PyTorch with CUDA, or"
      " compare both on the CPU with JAX_PLATFORMS=cpu"
    )
  return "cuda"


def peak_gb():
  """Most gigabytes that PyTorch held on the GPU; 0 without one."""
  return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def make_model(make, dtype):
  """`make()` with random weights of `dtype` ("float32", "bfloat16"), born in place."""
  torch.manual_seed(0)
  before = torch.get_default_dtype()
  torch.set_default_dtype(getattr(torch, dtype))
  try:
    with torch.device(device()):
      return make()
  finally:
    torch.set_default_dtype(before)


def add_lora(linear, rank=8, alpha=16.0):
  """Adds alpha / rank * B A x to a linear layer's output; returns [A, B]."""
  like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
  a = nn.Parameter(torch.randn(rank, linear.in_features, **like) * 0.02)
  b = nn.Parameter(torch.zeros(linear.out_features, rank, **like))

  def hook(_, inputs, output):
    return output + (inputs[0] @ a.T) @ b.T * (alpha / rank)

  linear.register_forward_hook(hook)
  return [a, b]


class Mining(nn.Module):
  """Patch mining as published: keys and values are projected cell by cell."""

  def __init__(self, width, channels):
    super().__init__()

    def project(inputs):
      return nn.Sequential(nn.LayerNorm(inputs, NORM_EPS), nn.Linear(inputs, width))

    self.query, self.key, self.value = map(project, (width, channels, channels))

  def forward(self, tokens_BND, cells_BNPC):
    query, key = self.query(tokens_BND), self.key(cells_BNPC)
    logits_BNP = torch.einsum("bnd,bnpd->bnp", query, key) * query.shape[-1] ** -0.5
    weights, value = logits_BNP.softmax(-1), self.value(cells_BNPC)
    return tokens_BND + torch.einsum("bnp,bnpd->bnd", weights, value)


class Published(nn.Module):
  """MIRAS of a MirasConfig with random weights, alignment left out (stage 2)."""

  def __init__(self, cfg):
    super().__init__()
    self.cfg, width = cfg, cfg.llama.width
    self.clip = _clip(cfg.clip)
    self.convnext = _convnext(cfg.convnext)
    self.mining = Mining(cfg.clip.width, cfg.convnext.out_channels)
    self.projector = _mlp(cfg.clip.width, width, width, nn.GELU())
    self.llm = llama(cfg.llama)
    self.text_fc = _mlp(width, width, cfg.seg_prompt.out_width, nn.ReLU())
    self.sam = transformers.SamModel(sam_config(cfg.sam_encoder, cfg.sam_decoder))

  def train_only_heads(self):
    """Freezes the rest; adds the adapters. Returns the trained parameters."""
    self.requires_grad_(False)
    heads = (
      self.llm.get_input_embeddings(), self.llm.lm_head, self.text_fc,
      self.sam.mask_decoder,
    )  # fmt: skip
    trained = []
    for module in heads:
      trained += [p.requires_grad_(True) for p in module.parameters()]
    for layer in self.llm.model.layers:
      for name in self.cfg.llama.lora_targets:
        trained += add_lora(getattr(layer.self_attn, name))
    return trained

  @torch.no_grad()
  def image_tokens(self, aux_BCHW):
    cfg = self.cfg
    size, grid, target = cfg.clip.image_size, cfg.clip.grid, cfg.convnext.target_grid
    small_BCHW = F.interpolate(aux_BCHW, (size, size), mode="bilinear")
    states = self.clip(small_BCHW, output_hidden_states=True).hidden_states
    x, stages = self.convnext.embeddings(aux_BCHW), []
    for stage in self.convnext.encoder.stages:
      x = stage(x)
      stages.append(F.interpolate(x, (target, target), mode="bilinear"))
    map_BCHW, cells = torch.cat(stages, 1), target // grid
    B, C = map_BCHW.shape[:2]
    cells_BNPC = map_BCHW.reshape(B, C, grid, cells, grid, cells)
    cells_BNPC = cells_BNPC.permute(0, 2, 4, 3, 5, 1).reshape(B, grid * grid, -1, C)
    tokens_BND = states[cfg.clip.select_layer][:, 1:]
    return self.projector(self.mining(tokens_BND, cells_BNPC))

  def loss(self, batch, loss):
    """Total loss of a `LossConfig`: tokens, mask cross-entropy, dice."""
    x_BTD = self.llm.get_input_embeddings()(batch["tokens"])
    tokens_BND = self.image_tokens(batch["aux"])
    x_BTD = torch.cat([tokens_BND, x_BTD[:, tokens_BND.shape[1] :]], 1)
    out = self.llm(
      inputs_embeds=x_BTD, labels=batch["labels"], output_hidden_states=True,
      use_cache=False,
    )  # fmt: skip
    prompt_BTC = self.text_fc(out.hidden_states[-1])  # all T, as published
    rows_B = torch.arange(len(x_BTD), device=x_BTD.device)
    logits_BHW = self._masks(batch["sam"], prompt_BTC[rows_B, batch["seg_pos"] - 1])
    target_BHW = batch["masks"]
    logits_BHW = _resize(logits_BHW.float(), target_BHW.shape[-1])
    bce = F.binary_cross_entropy_with_logits(logits_BHW, target_BHW)
    p_BHW, scale = logits_BHW.sigmoid(), loss.dice_scale
    overlap_B = (p_BHW * target_BHW).sum((1, 2)) / scale
    total_B = (p_BHW.sum((1, 2)) + target_BHW.sum((1, 2))) / scale
    dice = (1 - (2 * overlap_B + 1e-6) / (total_B + 1e-6)).mean()
    return loss.token_ce * out.loss + loss.mask_bce * bce + loss.dice * dice

  def _masks(self, sam_BCHW, prompt_BC):
    """Low-resolution mask logits, one a prompt; the encoder without gradient."""
    features_BCHW = self.sam.get_image_embeddings(sam_BCHW)
    no_mask = self.sam.prompt_encoder.no_mask_embed.weight
    position = self.sam.get_image_wide_positional_embeddings()
    logits, _ = self.sam.mask_decoder(
      image_embeddings=features_BCHW,
      image_positional_embeddings=position.repeat(len(prompt_BC), 1, 1, 1),
      sparse_prompt_embeddings=prompt_BC[:, None, None],
      dense_prompt_embeddings=no_mask[..., None, None].expand_as(features_BCHW),
      multimask_output=False,
    )
    return logits[:, 0, 0]


def make_step(cfg, loss, optim, batch, dtype="float32"):
  """A function without arguments: one training step on `batch`; returns its loss.

  batch: numpy, `tokens`, `labels` [B, T] (-100: not supervised), `aux`, `sam` float
  NCHW, `masks` [B, H, W] float, `seg_pos` [B].
  """
  model = make_model(lambda: Published(cfg), dtype)
  trained = model.train_only_heads()
  optimizer = torch.optim.AdamW(
    trained, lr=optim.lr, betas=(optim.b1, optim.b2), weight_decay=optim.weight_decay
  )
  batch = {k: torch.from_numpy(x).to(device()) for k, x in batch.items()}
  for name in ("aux", "sam"):
    batch[name] = batch[name].to(getattr(torch, dtype))

  def step():
    loss_value = model.loss(batch, loss)
    loss_value.backward()
    torch.nn.utils.clip_grad_norm_(trained, optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_value.item()

  return step


def _resize(x_BHW, side):
  if x_BHW.shape[-1] == side:
    return x_BHW
  return F.interpolate(x_BHW[:, None], (side, side), mode="bilinear")[:, 0]


def _mlp(inputs, hidden, outputs, activation):
  return nn.Sequential(
    nn.Linear(inputs, hidden), activation, nn.Linear(hidden, outputs)
  )


def _clip(cfg):
  return transformers.CLIPVisionModel(
    transformers.CLIPVisionConfig(
      hidden_size=cfg.width, intermediate_size=cfg.mlp_width,
      num_hidden_layers=cfg.depth, num_attention_heads=cfg.num_heads,
      image_size=cfg.image_size, patch_size=cfg.patch_size,
      attn_implementation="sdpa",
    )
  )  # fmt: skip


def _convnext(cfg):
  return transformers.ConvNextModel(
    transformers.ConvNextConfig(
      hidden_sizes=list(cfg.dims), depths=list(cfg.depths), image_size=cfg.image_size
    )
  )


def llama(cfg):
  """transformers' Llama of a LlamaConfig's shape."""
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      hidden_size=cfg.width, intermediate_size=cfg.mlp_width,
      num_hidden_layers=cfg.depth, num_attention_heads=cfg.num_heads,
      num_key_value_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
      vocab_size=cfg.vocab_size, attn_implementation="sdpa",
    )
  )  # fmt: skip


def sam_config(encoder, decoder):
  """transformers' config of a SAM of our two configs' shapes."""
  image = {"image_size": encoder.image_size, "patch_size": encoder.patch_size}
  return transformers.SamConfig(
    vision_config=transformers.SamVisionConfig(
      hidden_size=encoder.width, output_channels=encoder.out_width,
      num_hidden_layers=encoder.depth, num_attention_heads=encoder.num_heads,
      window_size=encoder.window_size, num_pos_feats=encoder.out_width // 2,
      global_attn_indexes=list(encoder.global_layers),
      mlp_dim=encoder.mlp_ratio * encoder.width, **image,
    ),
    prompt_encoder_config=transformers.SamPromptEncoderConfig(
      hidden_size=decoder.width, mask_input_channels=decoder.mask_channels, **image
    ),
    mask_decoder_config=transformers.SamMaskDecoderConfig(
      hidden_size=decoder.width, mlp_dim=decoder.mlp_width,
      num_attention_heads=decoder.num_heads, iou_head_hidden_dim=decoder.iou_width,
    ),
  )  # fmt: skip
