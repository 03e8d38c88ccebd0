"""Bytes and FLOPs put down to modules add up to those of the program."""

import pytest

from miras_jax.parallel import chips
from miras_jax.scale import breakdown, cost, hlo, report
from tests.scale import snippets

CHIP = chips.find("TPU v5 lite")


@pytest.mark.parametrize("text", [snippets.LOOP, snippets.STACKED, snippets.NESTED])
def test_rows_add_up_to_the_program(text):
  module = hlo.parse(text)
  rows = breakdown.rows(module, CHIP)
  assert sum(row["bytes"] for row in rows) == cost.traffic(module)
  assert sum(row["flops"] for row in rows) == sum(cost.flops(module).values())


@pytest.mark.parametrize(
  "name, module, phase",
  [
    (
      "jit(train_step)/while/body/closed_call/jvp(Miras.hidden)/llm/layers/while/body/"
      "closed_call/checkpoint/attn/q_proj/dot_general",
      "Miras.hidden/llm/layers/attn", "forward",
    ),
    (
      "jit(train_step)/transpose(jvp(Miras.hidden))/llm/layers/while/body/checkpoint/"
      "rematted_computation/mlp/mul",
      "Miras.hidden/llm/layers/mlp", "again",
    ),
    (
      "jit(train_step)/jvp(Miras.hidden)/llm/llm._run/while/body/layers/attn/q_proj/"
      "q_proj._lora/dot_general",
      "Miras.hidden/llm/layers/attn", "forward",
    ),
    (
      "jit(f)/jvp(Miras.made_of)/Miras.prompts/sam.decode/sam._decode/decoder/mul",
      "Miras.made_of/sam/decoder", "forward",
    ),
    ("jit(f)/jvp(token_ce)/while/body/token_ce/BTD,DV->BTV/dot", "token_ce", "forward"),
    ("jit(f)/transpose(jvp(Sam))/block_07/attn/dot", "Sam/block_*/attn", "backward"),
    ("jit(train_step)/add", "-", "update"),
  ],
)  # fmt: skip
def test_names_tell_module_and_pass(name, module, phase):
  assert breakdown.split_name(name) == (module, phase)


KERNEL = """HloModule step

ENTRY %main (x: bf16[64,64]) -> bf16[64,64] {
  %x = bf16[64,64]{1,0} parameter(0)
  %q = bf16[64,64]{1,0} negate(%x), metadata={op_name="jit(f)/jvp(M)/attn/q_proj/neg"}
  %splash.1 = (bf16[64,64]{1,0}, f32[64]{0}) custom-call(%q), custom_call_target="tpu_custom_call"
  %out = bf16[64,64]{1,0} get-tuple-element(%splash.1), index=0
  ROOT %y = bf16[64,64]{1,0} negate(%out), metadata={op_name="jit(f)/jvp(M)/attn/o_proj/neg"}
}
"""  # noqa: E501


def test_a_kernel_without_a_name_is_of_the_module_that_takes_its_result():
  rows = breakdown.rows(hlo.parse(KERNEL), CHIP)
  kernel = next(row for row in rows if row["kind"] == "kernel")
  assert (kernel["module"], kernel["phase"]) == ("M/attn/o_proj", "forward")


def test_the_table_shows_the_longest_first_and_the_rest_as_one():
  row = {"bytes": 2**30, "flops": 0, "count": 1, "module": "m", "phase": "forward",
         "kind": "copy"}  # fmt: skip
  found = [row | {"seconds": float(n)} for n in range(report.SHOWN + 2, 0, -1)]
  entry = {"topology": "v5e:2x2", "program": "train", "breakdown": found}
  lines = list(report.breakdowns([entry]))
  assert len(lines) == 2 + report.SHOWN + 1
  assert lines[-1].split()[:6] == ["2.00", "0.000", "3000.00", "2", "2", "others"]
