"""[OBJ]..[SEG] cross-attention in its published form, with gradients."""

import jax
import numpy as np

from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import export
from miras_jax.models.seg_prompt import select_states, span_mask
from miras_jax.parity.port import on_host, run
from miras_jax.parity.training import by_image, report_losses, with_gradients

GRADS = "grads_obj_cross_attention.safetensors"


def compare(port, table):
  if "input_ids_obj" not in port.inputs:
    table.skip("obj/*", "inputs.npz has no input_ids_obj")
    return
  cfg, params = port.aligned_params()
  rows = port.spliced("input_ids_obj")
  segs = port.located(rows, "input_ids_obj")
  out, both = with_gradients(port, rows, segs, "stage1", cfg=cfg, params=params)
  terms, grads = both["stage1"]
  spans(port, table, out["hidden"], segs, out["prompt"])
  table.tensor("obj/prompt_sparse", out["prompt"][:, None])
  table.tensor("obj/logits", out["logits"])
  table.tensor("obj/low_res_masks", out["low_res"])
  groups = by_image(port, out["low_res"], port.image_K, port.gt)
  for n, (logits, _) in enumerate(groups):
    table.tensor(f"obj/pred_logits_{n}", logits)
  report_losses(table, "obj/loss_", terms)
  if not port.folder.has(GRADS):
    table.skip("gradients of the [OBJ] case", f"no {GRADS}")
    return
  ours = export({"seg_prompt": {"align": grads["seg_prompt"]["align"]}}, miras.ALIGN)
  table.tensors(ours, GRADS, bare=miras.ALIGN.bare)


def spans(port, table, hidden_BTD, segs, prompt_KC):
  """What the attention of each [SEG] with an [OBJ] reads, and what it makes of it."""
  module, params = port.seg_prompt(), port.params["seg_prompt"]
  projected_BTC = run(module, params, hidden_BTD, method="project")
  state, length = {"seg_state": port.cfg.seg_prompt.seg_state}, hidden_BTD.shape[1]

  @jax.jit
  def selected(projected_BTC):
    span_BMT = span_mask(segs.seg_BM, segs.obj_BM, length, **state)
    return span_BMT, select_states(projected_BTC, segs.seg_BM, segs.valid_BM, **state)

  span_BMT, seg_BMC = on_host(selected(projected_BTC))
  n = 0
  for k, (b, m) in enumerate(np.argwhere(segs.valid_BM)):
    if span_BMT[b, m].any():
      table.tensor(f"obj/span_{n}", projected_BTC[b][span_BMT[b, m]][:, None])
      table.tensor(f"obj/seg_in_{n}", seg_BMC[b, m][None])
      table.tensor(f"obj/aligned_{n}", prompt_KC[k][None])
      n += 1
