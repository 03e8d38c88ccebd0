"""The profile of a step: seconds of instructions, put down to modules."""

import jax
import jax.numpy as jnp

from miras_jax.scale import breakdown, hlo, profile, report


def program():
  """A long product and a short sum, compiled, and its argument."""

  def run(x):
    with jax.named_scope("long"):
      y = x @ x @ x @ x
    with jax.named_scope("short"):
      return y[:2].sum()

  x = jnp.ones((512, 512))
  return jax.jit(run).lower(x).compile(), x


def test_the_longest_operations_come_first_under_the_name_of_their_module():
  executable, x = program()
  found = profile.seconds(lambda: executable(x), 3)
  rows = breakdown.rows(hlo.parse(executable.as_text()), measured=found)
  assert rows[0]["module"] == "long" and rows[0]["seconds"] > 0
  # Summed in another order, hence the last digit.
  total = sum(found.values())
  assert sum(row["seconds"] for row in rows) <= total * (1 + 1e-9)
  assert "long" in "\n".join(
    report.breakdowns([{"topology": "local", "program": "train", "breakdown": rows}])
  )
