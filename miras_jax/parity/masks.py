"""SAM: encoder blocks, every prompt path, the decoder's inside, masks at full size."""

import numpy as np

from miras_jax.models.sam_decoder import MaskDecoder, postprocess
from miras_jax.models.sam_encoder import SamEncoder
from miras_jax.parity.port import flat_captures, nchw, run

KINDS = {
  "points": ("points",),
  "boxes": ("boxes",),
  "masks": ("masks",),
  "text": ("text",),
  "points_boxes": ("points", "boxes"),
  "all": ("points", "boxes", "masks", "text"),
  "none": (),
}


def compare(port, table):
  encoder(port, table)
  table.tensor("sam/dense_pe", nchw(port.sam(_dense_pe)))
  main_masks(port, table)
  text_multi = prompts_alone(port, table)
  for image in range(len(port.sam_images)):
    table.tensor(f"postprocess/out_{image}", full_size(port, text_multi, image))


def full_size(port, low_res, image):
  """The product's own postprocessing of one image."""
  return postprocess(
    low_res,
    port.inputs["resize_list"][image],
    port.inputs["original_sizes"][image],
    port.cfg.sam_encoder.image_size,
  )


def encoder(port, table):
  module = SamEncoder(port.cfg.sam_encoder, port.dtype)
  features, state = run(
    module, port.params["sam"]["encoder"], port.sam_images, capture=True
  )
  seen = flat_captures(state)
  table.tensor("sam/patch_embed", seen["patch_embed"])
  for i in range(port.cfg.sam_encoder.depth):
    table.tensor(f"sam/block_{i}", seen[f"block_{i:02d}"])
  table.tensor("sam/image_embeddings", nchw(features))


def _dense_pe(sam):
  return sam.prompt_encoder.dense_pe()


def _prompts(sam, **prompts):
  return sam.prompt_encoder(**prompts)


def _both_modes(sam, features, prompts):
  """In one program, so that the two modes share their transformer."""
  decoded = {
    mode: sam.decode(features, prompts, multimask=mode == "multi")
    for mode in ("single", "multi")
  }
  return *sam.prompt_encoder(**prompts), decoded


def main_masks(port, table):
  """The text path on the main batch, with the inside of the decoder."""
  prompt_KC, image_K = port.main["prompt"], port.image_K
  kept = np.array([len(port.gt[i]) > 0 for i in image_K], bool)
  prompt_KC, image_K = prompt_KC[kept], image_K[kept]
  if not len(image_K):
    table.skip("decoder/*, masks/*", "no image has masks")
    return
  sparse, dense = port.sam(_prompts, text=prompt_KC[:, None, None])
  grid = port.cfg.sam_encoder.grid
  table.tensor("prompt/sparse", sparse[:, 0])
  shape = (len(image_K), grid, grid, dense.shape[-1])
  table.tensor("prompt/dense", nchw(np.broadcast_to(dense[:, 0], shape)))
  module = MaskDecoder(port.cfg.sam_decoder)
  features = port.encoded["sam"][image_K]
  pe = port.sam(_dense_pe)
  (logits, iou, _), state = run(
    module, port.params["sam"]["decoder"], features, pe, sparse, dense, capture=True
  )
  seen = flat_captures(state)
  tokens, image = seen["transformer"]
  table.tensor("decoder/tokens_out", tokens[:, 0])
  table.tensor("decoder/image_out", image[:, 0])
  table.tensor("decoder/upscaled", nchw(seen["output_upscaling"])[:, 0])
  table.tensor("decoder/low_res_masks", logits[:, 0])
  table.tensor("decoder/iou_pred", iou[:, 0])
  full = [full_size(port, logits[k, 0], i) for k, i in enumerate(image_K)]
  for k, mask in enumerate(full):
    table.tensor(f"masks/pred_logits_{k}", mask)
  if not table.too_coarse("masks/min_margin_to_boundary_threshold"):
    table.tensor("masks/min_margin_to_boundary_threshold", margin(port, full))


def margin(port, masks):
  """Distance of the nearest logit to the boundary loss's threshold."""
  p = port.folder.get("loss.boundary_threshold")
  return np.float32(min(np.abs(m - np.log(p / (1 - p))).min() for m in masks))


def prompts_alone(port, table):
  """Each kind of prompt on image 0, one mask and several; returns text's several."""
  inputs = port.inputs
  every = {
    "points": (inputs["prompt_points"][None], inputs["prompt_point_labels"][None]),
    "boxes": inputs["prompt_boxes"][None],
    "masks": inputs["prompt_mask_inputs"][None, :, 0],
    "text": inputs["prompt_text_embeds"][None],
  }
  features, low_res = port.encoded["sam"][:1], {}
  for kind, parts in KINDS.items():
    sparse, dense, decoded = port.sam(
      _both_modes, features, {name: every[name] for name in parts}
    )
    shape = (sparse.shape[1], *dense.shape[2:])
    table.tensor(f"prompt_alone/{kind}/sparse", sparse[0])
    table.tensor(f"prompt_alone/{kind}/dense", nchw(np.broadcast_to(dense[0], shape)))
    for mode, (logits, iou, _) in decoded.items():
      low_res[kind, mode] = np.asarray(logits[0])
      table.tensor(f"prompt_alone/{kind}/low_res_{mode}", logits[0])
      table.tensor(f"prompt_alone/{kind}/iou_{mode}", iou[0])
  return low_res["text", "multi"]
