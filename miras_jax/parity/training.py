"""Losses and gradients of both stages, the losses alone, and the [SEG] offset quirk.

K masks, M masks of one image, H W its rows and columns.
"""

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import export
from miras_jax.parity.port import on_host
from miras_jax.parity.rows import IGNORE
from miras_jax.parity.table import LOSS
from miras_jax.training import losses

# Our names of the terms by those of config.json, in the published form.
TERMS = {
  "bce": "sigmoid_ce_loss",
  "dice": "dice_loss",
  "focal": "focal_loss",
  "boundary": "boundary_loss",
}
ENCODERS = ("clip", "convnext")  # run without gradient, as SAM's encoder


def compare(port, table):
  raw_losses(port, table)
  _, both = with_gradients(port, port.rows, port.segs, "stage1", "stage2")
  for stage, (terms, grads) in both.items():
    report_losses(table, f"loss_{stage}", terms)
    file = f"grads_{stage}.safetensors"
    if port.folder.has(file):
      table.tensors(export(grads, miras.MIRAS), file)
    else:
      table.skip(f"gradients of {stage}", f"no {file}")
    if stage == "stage1":
      table.tensor("llm/ce_loss", terms["raw_ce"], LOSS)
  wrong_offsets(port, table)


def report_losses(table, prefix, terms, *, file="outputs.npz"):
  for name, value in terms.items():
    if not name.startswith("raw_"):
      table.tensor(
        f"{prefix}{name}" if prefix.endswith("_") else f"{prefix}/{name}",
        np.float32(value),
        LOSS,
        file=file,
      )


# -- the four mask losses -------------------------------------------------------------


def raw_loss(name, get, logits_MHW, targets_MHW):
  """One unweighted mask loss of one image in its published form, over its masks."""
  M = len(targets_MHW)
  options = {"seg_valid_BM": np.ones((1, M), np.int32)}
  args = jnp.asarray(logits_MHW)[None], jnp.asarray(targets_MHW)[None]
  count = M + get("loss.num_masks_eps", 1e-8)
  if name == "sigmoid_ce_loss":
    return losses.mask_bce(*args, **options, normaliser=count)
  if name == "dice_loss":
    return losses.dice(
      *args,
      **options,
      normaliser=count,
      scale=get("loss.dice_scale"),
      eps=get("loss.dice_eps"),
    )
  if name == "focal_loss":
    return losses.focal(
      *args,
      **options,
      normaliser=M,
      form="published",
      alpha=get("loss.focal_alpha"),
      gamma=get("loss.focal_gamma"),
    )
  return losses.boundary(
    *args,
    **options,
    normaliser=M + get("loss.boundary_eps"),
    form="published",
    scale=get("loss.boundary_scale"),
    threshold=get("loss.boundary_threshold"),
  )


def raw_losses(port, table):
  """Unweighted losses of each image that has masks."""
  groups = by_image(port, port.main["low_res"], port.image_K, port.gt)

  @jax.jit
  def every(groups):
    return [[raw_loss(k, port.folder.get, *g) for g in groups] for k in TERMS.values()]

  for name, values in zip(TERMS.values(), every(groups), strict=True):
    for n, value in enumerate(values):
      table.tensor(f"loss_raw/{name}_image{n}", value, LOSS)


def by_image(port, low_res_K1hw, image_K, targets):
  """[(logits_MHW, targets_MHW)] of the images that have masks, at original size."""
  groups = []
  for image, targets_MHW in enumerate(targets):
    if len(targets_MHW):
      low_res_Mhw = low_res_K1hw[np.flatnonzero(image_K == image), 0]
      groups.append((port.full_size(low_res_Mhw, image), targets_MHW))
  return groups


# -- a stage's total ------------------------------------------------------------------


def total(port, out, labels_BT, image_K, stage, targets):
  """Weighted terms by their published names, and `loss`; differentiable."""
  get = port.folder.get
  valid_BT = labels_BT != IGNORE
  tokens_BT = np.where(valid_BT, labels_BT, 0)
  ce = losses.token_ce(
    out["logits"], tokens_BT, valid_BT, normaliser=valid_BT[:, 1:].sum()
  )
  terms = {"ce_loss": get(f"loss.{stage}.ce") * ce}
  groups = by_image(port, out["low_res"], image_K, targets)
  num_masks = sum(len(targets_MHW) for _, targets_MHW in groups)
  mask_loss = jnp.zeros(())
  for short, name in TERMS.items():
    weight = get(f"loss.{stage}").get(short)
    if weight is None:
      continue
    # As published: each image's value times its number of masks, over all masks.
    values = [len(t) * raw_loss(name, get, x, t) for x, t in groups]
    value = sum(values) / (num_masks + get("loss.num_masks_eps", 1e-8)) * weight
    terms[f"mask_{short}_loss"] = value
    mask_loss += value
  return {
    "loss": terms["ce_loss"] + mask_loss,
    **terms,
    "mask_loss": mask_loss,
    "raw_ce": ce,
  }


def trainable(params):
  """The parameters that a gradient of the reference can reach."""
  kept = {k: v for k, v in params.items() if k not in ENCODERS}
  sam = {k: v for k, v in params["sam"].items() if k != "encoder"}
  return kept | {"sam": sam}


def with_gradients(port, rows, segs, *stages, cfg=None, params=None):
  """(`forward`'s result, {stage: (terms, gradients of the trainable parameters)}).

  One program: the stages share their forward pass and differ in its cotangents.
  """

  def losses_S(params):
    out = port.forward(params, rows, segs, cfg=cfg)
    image_K = port.image_B[segs.rows_K]
    terms = {s: total(port, out, rows.labels_BT, image_K, s, port.gt) for s in stages}
    return jnp.stack([terms[stage]["loss"] for stage in stages]), (out, terms)

  params = trainable(port.params if params is None else params)
  grads_S, (out, terms) = on_host(jax.jit(jax.jacrev(losses_S, has_aux=True))(params))
  grads = [jax.tree.map(lambda x, i=i: x[i], grads_S) for i in range(len(stages))]
  both = zip(stages, grads, strict=True)
  return out, {stage: (terms[stage], grad) for stage, grad in both}


# -- the constant in place of N - 1 ---------------------------------------------------


def wrong_offsets(port, table):
  """Compatibility option `offset` (quirk 1): a small constant, and the literal 255."""
  offset = port.folder.get("seg_offset_legacy", None)
  if offset is not None:
    segs = port.located(port.rows, "input_ids", offset=int(offset))
    _offset_case(port, table, "legacy_offset", port.rows, segs, port.image_B, port.gt)
  ids = port.folder.golden("literal255/input_ids")
  labels = port.folder.golden("literal255/labels")
  if ids is None or labels is None:
    table.skip("literal255/*", "its input ids are in outputs.npz alone")
    return
  rows = port.splice(ids, labels, np.ones(ids.shape, bool))
  segs = port.located(rows, ids, offset=255)
  # One image and one conversation: the first image with its first mask.
  targets = [port.gt[0][: len(segs.rows_K)]]
  _offset_case(port, table, "literal255", rows, segs, np.zeros(len(ids), int), targets)


def _offset_case(port, table, name, rows, segs, images, targets):
  @jax.jit
  def both(params):
    out = port.forward(params, rows, segs, images=images)
    image_K = images[segs.rows_K]
    return out, total(port, out, rows.labels_BT, image_K, "stage2", targets)

  out, terms = on_host(both(port.params))
  table.tensor(f"{name}/embeddings", out["prompt"])
  table.tensor(f"{name}/low_res_masks", out["low_res"])
  report_losses(table, name, terms)
