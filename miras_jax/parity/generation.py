"""Greedy generation with masks, through `decode.generate`.

The prompt is conversation 0 before its first [SEG], its image is image 0.
"""

import functools

import jax
import numpy as np

from input_pipeline.tokenizer import TokenIds
from miras_jax.inference import generate as generation
from miras_jax.models.miras import Miras
from miras_jax.parity.masks import full_size
from miras_jax.parity.port import on_host, run
from miras_jax.parity.table import EXACT

NEW_TOKENS = 10  # where outputs.npz does not say


def compare(port, table):
  rows = prompt_rows(port)
  if rows is None:
    table.skip("generate/*, evaluate/*", "conversation 0 has no [SEG]")
    return
  wanted = port.folder.golden("generate/sequences")
  count = NEW_TOKENS if wanted is None else wanted.shape[1]
  out = generate(port, rows, count, seg=port.folder.get("tokens.SEG"))
  tokens, states = out["tokens"], out["states"]
  length = int(out["num_tokens"][0])
  hidden, logits = prompt_states(port, rows), step_logits(port, states[:, :length])
  table.tensor("generate/sequences", tokens[:, :length], EXACT)
  table.tensor("generate/last_hidden_per_step", states[:, :length])
  table.tensor("generate/prompt_last_hidden", hidden)
  table.tensor("generate/logits_per_step", logits)
  if not table.too_coarse("generate/min_top1_top2_gap"):
    table.tensor("generate/min_top1_top2_gap", top_gap(logits))
  evaluate(port, table, rows, tokens[:, :length], states[:, :length])


def prompt_rows(port):
  """Conversation 0 up to its first [SEG], or the golden ids, spliced; else None."""
  ids = port.folder.golden("generate/prompt_ids")
  if ids is None:
    ids = port.inputs["input_ids"][:1]
    at = np.flatnonzero(ids[0] == port.folder.get("tokens.SEG"))
    if not len(at):
      return None
    ids = ids[:, : at[0]]
  return port.splice(ids, np.full(ids.shape, -100), np.ones(ids.shape, bool))


def generate(port, rows, count, *, seg):
  get = port.folder.get
  ids = TokenIds(
    bos=get("llm.bos_token_id"),
    eos=get("llm.eos_token_id"),
    pad=get("llm.pad_token_id"),
    seg=seg,
    im_start=-1,
    im_end=-1,
    im_patch=-1,
    obj=-1,
  )
  batch = {
    "tokens": rows.tokens_BT,
    "positions": rows.positions_BT,
    "segments": rows.mask_BT.astype(np.int32),
    "image_slot": rows.image_slot_BT,
  }
  encoded = {
    "image_tokens": port.main["image_tokens"][:1],
    "sam": port.encoded["sam"][:1],
  }
  model = Miras(port.cfg, port.dtype)
  return on_host(_generate(model, port.params, batch, encoded, ids, count))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _generate(model, params, batch, encoded, ids, count):
  """One program for both [SEG] ids: they are numbers in it."""
  return generation.generate(
    model, params, batch, encoded, ids, max_new_tokens=count, max_masks=1
  )


def prompt_states(port, rows):
  x_BTD = port.embedded(rows, port.main["image_tokens"][:1])
  return run(port.llama(), port.params["llm"], x_BTD, *port.llama_inputs(rows))


def step_logits(port, states):
  return run(port.llama(), port.params["llm"], states, method="logits")


def top_gap(logits):
  first, second = np.sort(logits, axis=-1)[..., -1], np.sort(logits, axis=-1)[..., -2]
  return (first - second).min()


def evaluate(port, table, rows, tokens, states):
  """The case declares the second generated token to be [SEG].

  `corrected_*` is the product's own path: the state that produced [SEG]. The others are
  quirk 4, the state of the last step whatever it generated.
  """
  table.tensor("evaluate/output_ids", tokens, EXACT)
  module, params = port.seg_prompt(), port.params["seg_prompt"]
  projected = run(module, params, states, method="project")
  table.tensor("evaluate/projected_hidden_per_step", projected)
  used = projected[:, -1]
  low_res, _ = port.decoded(used, np.zeros(1, int))
  table.tensor("evaluate/embedding_used", used)
  table.tensor("evaluate/pred_masks", full_size(port, low_res[:, 0], 0))
  empty, _ = port.decoded(used[:0], np.zeros(0, int))
  shape = full_size(port, empty[:, 0], 0).shape
  table.tensor("evaluate/no_seg_mask_shape", np.array(shape), EXACT)
  if tokens.shape[1] < 2:
    table.skip("evaluate/corrected_*", "fewer than two tokens were generated")
    return
  declared = port.folder.golden("evaluate/seg_token_used")
  seg = int(tokens[0, 1] if declared is None else declared)
  out = generate(port, rows, tokens.shape[1], seg=seg)
  step = int(np.flatnonzero(tokens[0] == seg)[0])
  table.tensor("evaluate/corrected_embedding", projected[:, step])
  mask = full_size(port, out["mask_logits"][:, 0], 0)
  table.tensor("evaluate/corrected_pred_masks", mask)
