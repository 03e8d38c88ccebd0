"""LoRA: results and gradients with the adapters, and with the adapters merged."""

from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.convert.tables import miras
from miras_jax.convert.tables.mapping import export
from miras_jax.models.llama import merge_lora
from miras_jax.parity.masks import margin
from miras_jax.parity.training import by_image, report_losses, with_gradients

FILE = "lora_outputs.npz"


def compare(port, table):
  cfg, params = port.lora_params()
  out, both = with_gradients(
    port, port.rows, port.segs, "stage2", cfg=cfg, params=params
  )
  terms, grads = both["stage2"]
  for name, key in (
    ("logits", "logits"),
    ("last_hidden", "hidden"),
    ("low_res_masks", "low_res"),
  ):
    table.tensor(name, out[key], file=FILE)
  report_losses(table, "loss_stage2", terms, file=FILE)
  full = by_image(port, out["low_res"], port.image_K, port.gt)
  if full and not table.too_coarse("min_margin_to_boundary_threshold with adapters"):
    value = margin(port, [logits for logits, _ in full])
    table.tensor("min_margin_to_boundary_threshold", value, file=FILE)
  if not table.too_coarse("gradients of the adapters"):
    for name, grad in export(adapters(grads), miras.TRAINING).items():
      table.tensor(f"grad/{name}", grad, file=FILE)
  merged(port, table, cfg, params)


def adapters(tree):
  flat = flatten_dict(tree, sep="/")
  return unflatten_dict({k: v for k, v in flat.items() if "/lora_" in k}, sep="/")


def merged(port, table, cfg, params):
  params = merge_lora(params, cfg.llama)
  out = port.forward_main(params)
  table.tensor("merged_logits", out["logits"], file=FILE)
  layers = {k: v for k, v in params["llm"]["layers"].items() if k in ("attn", "mlp")}
  kernels = {
    part: {
      name: {"kernel": leaf["kernel"]}
      for name, leaf in projections.items()
      if name in cfg.llama.lora_targets
    }
    for part, projections in layers.items()
  }
  ours = export({"llm": {"layers": kernels}}, miras.MIRAS)
  for name, weight in ours.items():
    table.tensor(f"merged_weight/{name}", weight, file=FILE)
