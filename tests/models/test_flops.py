"""The stated formula against the compiler's count of the same, unrolled program."""

import dataclasses
import functools

import jax
import pytest

from miras_jax.config import file as config_file
from miras_jax.config.overrides import with_overrides
from miras_jax.config.run import RunConfig
from miras_jax.config.variants import TINY
from miras_jax.models import flops, sam_attention
from miras_jax.models.miras import dummy_batch
from miras_jax.training import optim, task
from miras_jax.training import step as train_step
from miras_jax.training.initial_state import make_state

WIDE = {
  "llama.width": 1024, "llama.mlp_width": 2816, "llama.num_heads": 8,
  "llama.num_kv_heads": 8, "llama.head_dim": 128, "llama.depth": 2,
  "llama.scan_unroll": 2, "llama.attention": "xla", "llama.vocab_size": 2048,
  "clip.width": 512, "clip.mlp_width": 2048,
  "convnext.dims": (96, 192, 384, 768),
  "sam_encoder.width": 512, "sam_encoder.out_width": 256,
  "sam_decoder.width": 256, "sam_decoder.mlp_width": 1024, "sam_decoder.iou_width": 256,
  "seg_prompt.out_width": 256,
}  # fmt: skip


def config(trainable="lora_heads", encoder="dual", **overrides):
  c = config_file.load("miras_7b_stage2:size=small")
  run = RunConfig.from_config_dict(c)
  changed = {**WIDE, "llama.lora_rank": 8} | overrides
  model = dataclasses.replace(run.model, overrides=changed, encoder=encoder)
  data = dataclasses.replace(run.data, max_len=256, max_masks=2)
  optimizer = dataclasses.replace(run.optim, accumulation=1)
  return dataclasses.replace(
    run, model=model, data=data, optim=optimizer, trainable=trainable,
    loss_resolution=128,
  )  # fmt: skip


def counted(run, program):
  """FLOPs a row of the lowered, not compiled, program."""
  found = task.model_task(run)
  rows = 2
  tx = optim.make_optimizer(run.optim, run.steps)
  parts = train_step.Parts(found.objective, tx=tx, accumulation=1)
  state = jax.eval_shape(functools.partial(make_state, found, parts.tx))
  batch = jax.eval_shape(
    lambda: dummy_batch(run.model.build(), batch_size=rows, length=256, max_masks=2)
  )
  step = {"train": train_step.train_step, "eval": train_step.eval_step}[program]
  lowered = jax.jit(functools.partial(step, parts=parts)).lower(state, batch)
  return lowered.cost_analysis()["flops"] / rows


@pytest.mark.parametrize(
  "trainable, remat, program, encoder",
  [
    ("lora_heads", "none", "eval", "dual"),
    ("lora_heads", "full", "train", "dual"),
    ("full", "none", "train", "dual"),
    ("lora_heads+mining", "none", "train", "shared"),
    ("full", "none", "train", "sam_only"),
  ],
)
def test_the_formula_is_within_5_percent_of_the_compiler(
  trainable, remat, program, encoder, monkeypatch
):
  monkeypatch.setattr(
    sam_attention, "MAX_LOGITS", 2**40
  )  # no loop: its body counts once
  run = config(trainable, encoder, **{"llama.remat": remat})
  ours = flops.example(run, program=program).executed
  assert counted(run, program) / ours == pytest.approx(1, abs=0.05)


def test_a_linear_projector_saves_its_second_matrix():
  cfg = config().model.build()
  one = with_overrides(cfg, {"projector": "linear"})
  both, first = (
    sum(u.flops for u in flops.forward_units(c, 64, 1)) for c in (cfg, one)
  )
  assert both - first == 2 * cfg.num_image_tokens * cfg.llama.width**2


def test_the_last_layer_of_a_prefill_gives_keys_and_values_and_one_token():
  """The formula is two layers less what 255 of 256 tokens have no use for."""
  run = config()
  llama = run.model.build().llama
  T, D = run.data.max_len, llama.width
  query, key = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
  layer = 2 * T * D * (2 * query + 2 * key + 3 * llama.mlp_width)
  layer += 4 * query * T * (T + 1) / 2
  last = 2 * T * D * 2 * key + 2 * D * (2 * query + 3 * llama.mlp_width) + 4 * query * T
  found = flops.example(run, program="prefill").useful
  assert found == pytest.approx((llama.depth - 1) * layer + last, rel=1e-9)


@pytest.mark.parametrize(
  ("encoder", "state", "only_for_masks"),
  [("dual", "none", True), ("dual", "tokens", False), ("shared", "none", False)],
)
def test_who_else_reads_the_features_of_sam(encoder, state, only_for_masks):
  cfg = dataclasses.replace(TINY, encoder=encoder, state=state)
  assert ("sam/encoder" in flops.of_masks(cfg)) == only_for_masks
