"""SAM: the names of its release (`.pth`), as in LISA and MIRAS, and Hugging Face's."""

from miras_jax.convert.tables.mapping import Table
from miras_jax.convert.tables.rules import Rule, conv, deconv, linear, norm

_ENC, _PROMPT, _DEC = "sam/encoder/", "sam/prompt_encoder/", "sam/decoder/"
_DOWN, _UP = _PROMPT + "mask_downscaling/", _DEC + "output_upscaling/"
_ATTENTION = "{a:self_attn|cross_attn_token_to_image|cross_attn_image_to_token}"
_OUR_BLOCK, _OUR_LAYER = _ENC + "block_{i:02}/", _DEC + "transformer/layer_{i:02}/"


def _shared(block, layer):
  """What both namings agree on, below their own names of a block and a layer."""
  final = "final_attn_token_to_image"
  return (
    Rule(block + "attn.rel_pos_{x:h|w}", _OUR_BLOCK + "attn/rel_pos_{x}"),
    *linear(block + "attn.{p:qkv|proj}", _OUR_BLOCK + "attn/{p}"),
    *linear(block + "mlp.lin{n:1|2}", _OUR_BLOCK + "mlp/fc{n}"),
    Rule("prompt_encoder.{p:not_a_point_embed|no_mask_embed}.weight", _PROMPT + "{p}"),
    Rule("mask_decoder.{p:iou_token|mask_tokens}.weight", _DEC + "{p}"),
    *linear(f"{layer}{_ATTENTION}.{{p:q|k|v|out}}_proj", _OUR_LAYER + "{a}/{p}_proj"),
    *linear(layer + "mlp.lin{n:1|2}", _OUR_LAYER + "mlp/fc{n}"),
    *linear(
      f"mask_decoder.transformer.{final}.{{p:q|k|v|out}}_proj",
      f"{_DEC}transformer/{final}/{{p}}_proj",
    ),
  )


_BLOCK, _LAYER = "image_encoder.blocks.{i}.", "mask_decoder.transformer.layers.{i}."
RULES = (
  *_shared(_BLOCK, _LAYER),
  *conv("image_encoder.patch_embed.proj", _ENC + "patch_embed"),
  Rule("image_encoder.pos_embed", _ENC + "pos_embed"),
  *norm(_BLOCK + "norm{n:1|2}", _OUR_BLOCK + "norm{n}"),
  conv("image_encoder.neck.0", _ENC + "neck/conv1")[0],
  *norm("image_encoder.neck.1", _ENC + "neck/norm1"),
  conv("image_encoder.neck.2", _ENC + "neck/conv2")[0],
  *norm("image_encoder.neck.3", _ENC + "neck/norm2"),
  Rule(
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    _PROMPT + "pe/gaussian",
  ),
  Rule("prompt_encoder.point_embeddings.{i}.weight", _PROMPT + "point_embeddings_{i}"),
  *conv("prompt_encoder.mask_downscaling.0", _DOWN + "conv1"),
  *norm("prompt_encoder.mask_downscaling.1", _DOWN + "norm1"),
  *conv("prompt_encoder.mask_downscaling.3", _DOWN + "conv2"),
  *norm("prompt_encoder.mask_downscaling.4", _DOWN + "norm2"),
  *conv("prompt_encoder.mask_downscaling.6", _DOWN + "conv3"),
  *norm(_LAYER + "norm{n:1|2|3|4}", _OUR_LAYER + "norm{n}"),
  *norm(
    "mask_decoder.transformer.norm_final_attn", _DEC + "transformer/norm_final_attn"
  ),
  *deconv("mask_decoder.output_upscaling.0", _UP + "conv1"),
  *norm("mask_decoder.output_upscaling.1", _UP + "norm"),
  *deconv("mask_decoder.output_upscaling.3", _UP + "conv2"),
  *linear(
    "mask_decoder.output_hypernetworks_mlps.{m}.layers.{i}",
    _DEC + "output_hypernetworks_{m}/layers_{i}",
  ),
  *linear(
    "mask_decoder.iou_prediction_head.layers.{i}",
    _DEC + "iou_prediction_head/layers_{i}",
  ),
)
ORIGINAL = Table(RULES, ignored=(r"pixel_(mean|std)",))

_BLOCK = "vision_encoder.layers.{i}."
# A three-layer MLP: proj_in, layers.0, proj_out. All released models have three.
_MLP = (("proj_in", "layers_0"), ("layers.0", "layers_1"), ("proj_out", "layers_2"))
HF_RULES = (
  *_shared(_BLOCK, _LAYER),
  *conv("vision_encoder.patch_embed.projection", _ENC + "patch_embed"),
  Rule("vision_encoder.pos_embed", _ENC + "pos_embed"),
  *norm(_BLOCK + "layer_norm{n:1|2}", _OUR_BLOCK + "norm{n}"),
  conv("vision_encoder.neck.conv{n:1|2}", _ENC + "neck/conv{n}")[0],
  *norm("vision_encoder.neck.layer_norm{n:1|2}", _ENC + "neck/norm{n}"),
  Rule("shared_image_embedding.positional_embedding", _PROMPT + "pe/gaussian"),
  Rule("prompt_encoder.point_embed.{i}.weight", _PROMPT + "point_embeddings_{i}"),
  *conv("prompt_encoder.mask_embed.conv{n:1|2|3}", _DOWN + "conv{n}"),
  *norm("prompt_encoder.mask_embed.layer_norm{n:1|2}", _DOWN + "norm{n}"),
  *norm(_LAYER + "layer_norm{n:1|2|3|4}", _OUR_LAYER + "norm{n}"),
  *norm(
    "mask_decoder.transformer.layer_norm_final_attn",
    _DEC + "transformer/norm_final_attn",
  ),
  *deconv("mask_decoder.upscale_conv{n:1|2}", _UP + "conv{n}"),
  *norm("mask_decoder.upscale_layer_norm", _UP + "norm"),
  *(
    rule
    for theirs, ours in _MLP
    for rule in linear(
      f"mask_decoder.output_hypernetworks_mlps.{{m}}.{theirs}",
      f"{_DEC}output_hypernetworks_{{m}}/{ours}",
    )
  ),
  *(
    rule
    for theirs, ours in _MLP
    for rule in linear(
      f"mask_decoder.iou_prediction_head.{theirs}", f"{_DEC}iou_prediction_head/{ours}"
    )
  ),
)
# The same matrix as shared_image_embedding, which some files store twice.
HF = Table(
  HF_RULES, ignored=(r"prompt_encoder\.shared_embedding\.positional_embedding",)
)
