"""Recomputes a golden folder of the PyTorch original and prints the error per tensor.

  miras parity --golden=../shared/golden
  miras parity --golden=../shared/golden --out=ours.npz
  miras parity --golden=../shared/golden --dtype=bfloat16
  miras parity --golden=../shared/golden --weights=int8

Exit status 1 when any tensor is past its tolerance: 1e-4 for activations and gradients,
1e-5 for losses, equality for integers. In bfloat16 the norm of the difference over that
of the reference may be 2e-2; gradients and margins are compared in float32 only. With
int8 weights it may be 5e-2, and only what answers is recomputed: towers, decoder, masks
and generation.
"""

import jax
import jax.numpy as jnp

from miras_jax.inference.prepare import WEIGHTS
from miras_jax.options import Parser
from miras_jax.parity import (
  alignment,
  data,
  generation,
  language,
  lora,
  masks,
  towers,
  training,
)
from miras_jax.parity.folder import Folder
from miras_jax.parity.port import ALIGN, LORA, STATE, Port
from miras_jax.parity.table import Table

# (cases, the files without which they cannot be computed)
MODEL_CASES = (
  (towers, ()),
  (language, ()),
  (masks, ()),
  (training, ()),
  (alignment, (ALIGN,)),
  (lora, (LORA,)),
  (generation, ()),
)
ANSWERS = (towers, language, masks, generation)
MODEL_FILES = (STATE, "inputs.npz")
# Golden tensors that are no result to be reached.
NOT_RESULTS = {
  "bf16/": "quirk 6: shows the size of the reference's own rounding",
}
GIVEN = (
  "literal255/input_ids",
  "literal255/labels",
  "generate/prompt_ids",
  "grid/target_size",
  "legacy_offset/offset",
  "evaluate/seg_token_used",
)


def main(argv):
  args = parser().parse_args(argv)
  # Tests of numbers want every product in full precision, on accelerators too.
  with jax.default_matmul_precision("highest"):
    table = run(Folder(args.golden), jnp.dtype(args.dtype), args.weights)
  table.print()
  if args.out:
    table.save(args.out)
  return 1 if table.failures else 0


def parser():
  parser = Parser(prog="miras parity", description=__doc__)
  parser.add_argument("--golden", required=True, help="golden folder")
  parser.add_argument("--out", help="write every tensor we computed, .npz")
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--weights", default=WEIGHTS[0], choices=WEIGHTS)
  return parser


def run(folder, dtype=jnp.float32, weights=WEIGHTS[0]):
  """All cases that the folder has the files for -> Table."""
  int8 = weights == "int8"
  table = Table(folder, weights if int8 else jnp.dtype(dtype).name)
  lacking = [name for name in MODEL_FILES if not folder.has(name)]
  if lacking:
    table.skip("the model", f"the folder has no {', '.join(lacking)}")
  else:
    port = Port(folder, dtype, weights)
    for case, files in MODEL_CASES:
      if int8 and case not in ANSWERS:
        table.skip(case.__name__.rsplit(".", 1)[-1], "compared with trained weights")
        continue
      absent = [name for name in files if not folder.has(name)]
      if absent:
        table.skip(case.__name__.rsplit(".", 1)[-1], f"no {', '.join(absent)}")
      else:
        case.compare(port, table)
  if int8:
    return table
  table.relative = False  # no model in the rest: float32 whatever the model ran in
  data.compare(folder, table)
  if folder.has("outputs.npz") and not lacking:
    _list_the_rest(folder, table)
  return table


def _list_the_rest(folder, table):
  """Every name of outputs.npz is compared or accounted for."""
  for name in folder.npz("outputs.npz"):
    listed = name in GIVEN or any(name == what for what, _ in table.skipped)
    if name in table.computed or listed:
      continue
    why = next((why for k, why in NOT_RESULTS.items() if name.startswith(k)), None)
    table.skip(name, why or "no counterpart in this model")
