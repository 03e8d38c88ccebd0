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
    ("jit(f)/transpose(jvp(Sam))/block_07/attn/dot", "Sam/block_*/attn", "backward"),
    ("jit(train_step)/add", "-", "update"),
  ],
)  # fmt: skip
def test_names_tell_module_and_pass(name, module, phase):
  assert breakdown.split_name(name) == (module, phase)


def test_the_table_shows_the_longest_first_and_the_rest_as_one():
  row = {"bytes": 2**30, "flops": 0, "count": 1, "module": "m", "phase": "forward",
         "kind": "copy"}  # fmt: skip
  found = [row | {"seconds": float(n)} for n in range(report.SHOWN + 2, 0, -1)]
  entry = {"topology": "v5e:2x2", "program": "train", "breakdown": found}
  lines = list(report.breakdowns([entry]))
  assert len(lines) == 2 + report.SHOWN + 1
  assert lines[-1].split()[:6] == ["2.00", "0.000", "3000.00", "2", "2", "others"]
