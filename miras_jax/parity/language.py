"""Splicing, every decoder layer, logits, [SEG] embeddings."""

import numpy as np

from miras_jax.parity.port import on_host, run
from miras_jax.parity.rows import Segs
from miras_jax.parity.table import EXACT

TEXT_ONLY_ROW, FILLER = 1, 7  # what the golden splicing variants put in a placeholder


def compare(port, table):
  tokens_BND, rows = port.main["image_tokens"][port.image_B], port.rows
  x_BTD = port.main["embeds"]
  table.tensor("splice/inputs_embeds", x_BTD)
  table.tensor("splice/attention_mask", rows.mask_BT, EXACT)
  table.tensor("splice/labels", rows.labels_BT, EXACT)
  hidden_BTD = llama(port, table, x_BTD)
  segs(port, table, hidden_BTD)
  splice_variants(port, table, tokens_BND)
  inference_branch(port, table, x_BTD)


def llama(port, table, x_BTD):
  """Every layer's state and the logits; returns the final-normed states."""
  params = port.params["llm"]
  hidden_BTD, state = run(
    port.llama(), params, x_BTD, *port.llama_inputs(port.rows), capture=True
  )
  # The scanned layers' carry: (states, cache), layer axis first.
  layers_LBTD = state["intermediates"]["layers"]["__call__"][0][0][0]
  table.tensor("llm/hidden_0", x_BTD)
  for i in range(1, port.cfg.llama.depth):
    table.tensor(f"llm/hidden_{i}", layers_LBTD[i - 1])
  table.tensor(f"llm/hidden_{port.cfg.llama.depth}", hidden_BTD)
  table.tensor("llm/logits", run(port.llama(), params, hidden_BTD, method="logits"))
  return hidden_BTD


def segs(port, table, hidden_BTD):
  params, module = port.params["seg_prompt"], port.seg_prompt()
  projected = run(module, params, hidden_BTD, method="project")
  table.tensor("seg/projected_all", projected)
  table.tensor("seg/positions", port.segs.positions_K2, EXACT)
  prompt_BMC = run(module, params, hidden_BTD, *port.segs)
  table.tensor("seg/embeddings", prompt_BMC[port.segs.valid_BM > 0])


def splice_variants(port, table, tokens_BND):
  """Both padding sides and a cut at the right end, with one row of text alone."""
  inputs, count = port.inputs, min(3, len(port.image_B))
  ids_BT = inputs["input_ids"][:count].copy()
  if count > TEXT_ONLY_ROW:
    row = ids_BT[TEXT_ONLY_ROW]
    row[row == port.folder.get("mm.image_token_index", -200)] = FILLER
  others = inputs["labels"][:count], inputs["attention_masks"][:count]
  for name in ("right", "left", "truncated"):
    options = {"side": "left" if name == "left" else "right"}
    if name == "truncated":
      length = _truncated_length(port)
      if length is None:
        table.skip("splice_truncated/*", "its length is in outputs.npz alone")
        continue
      options["max_length"] = length
    rows = port.splice(ids_BT, *others, **options)
    x_BTD = port.embedded(rows, tokens_BND[:count])
    table.tensor(f"splice_{name}/inputs_embeds", x_BTD)
    table.tensor(f"splice_{name}/attention_mask", rows.mask_BT, EXACT)
    table.tensor(f"splice_{name}/labels", rows.labels_BT, EXACT)
    table.tensor(f"splice_{name}/position_ids", rows.position_ids_BT, EXACT)


def _truncated_length(port):
  labels = port.folder.golden("splice_truncated/labels")
  return None if labels is None else labels.shape[1]


def inference_branch(port, table, x_BTD):
  """Compatibility option: [SEG] read from layer 0, the input embeddings (quirk 3).

  The first image with its conversations, as the reference's validation sees it.
  """
  rows_B = np.flatnonzero(port.image_B == 0)
  segs_B = Segs(*(x[rows_B] for x in port.segs))
  length = int(port.rows.mask_BT[rows_B].sum(1).max())
  params = port.params
  prompt_BMC = run(port.seg_prompt(), params["seg_prompt"], x_BTD[rows_B], *segs_B)
  prompt_KC = prompt_BMC[segs_B.valid_BM > 0]
  low_res, _ = port.decoded(prompt_KC, np.zeros(len(prompt_KC), int))
  positions, mask_BTS = on_host(port.llama_inputs(port.rows))
  hidden = run(
    port.llama(),
    params["llm"],
    x_BTD[rows_B, :length],
    positions[rows_B, :length],
    mask_BTS[rows_B, :length, :length],
  )
  logits = run(port.llama(), params["llm"], hidden, method="logits")
  table.tensor("inference_branch/embeddings", prompt_KC)
  table.tensor("inference_branch/pred_masks", port.full_size(low_res, 0)[:, 0])
  table.tensor("inference_branch/logits", logits)
