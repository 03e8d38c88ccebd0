"""Where a model answers: --mesh and --weights of eval, segment, chat and serve.

  --mesh=data:4          four copies of the weights, the batch cut in four
  --mesh=data:2,fsdp:4   the weights cut in four as in training, two copies of that
  --mesh=tensor:-1       as many as there are

Without it one device does everything. Parameters lie as the trainer's table says, so
what eight chips trained, eight chips open. With several processes each has a mesh of
its own devices.
"""

import jax

from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.inference.load import Loaded, open_checkpoint
from miras_jax.inference.prepare import WEIGHTS
from miras_jax.options import nearest
from miras_jax.parallel import mesh as mesh_lib

HELP = "devices, e.g. data:4,fsdp:2 (one device)"


def add_options(parser) -> None:
  """Adds --mesh and --weights to a command's parser."""
  parser.add_argument("--mesh", type=parse, metavar="AXIS:SIZE,...", help=HELP)
  parser.add_argument(
    "--weights", choices=WEIGHTS, default=WEIGHTS[0], help="int8: half the memory"
  )


def load(args) -> Loaded:
  """`open_checkpoint` of the options --checkpoint, --mesh and --weights."""
  return open_checkpoint(args.checkpoint, weights=args.weights, mesh=make(args.mesh))


def parse(text: str) -> MeshConfig:
  """The mesh of a text; UserError naming the part that is wrong."""
  sizes = {}
  for part in text.split(","):
    name, _, size = part.partition(":")
    if name not in mesh_lib.AXES:
      raise UserError(f"--mesh: no axis {name!r}{nearest(name, mesh_lib.AXES)}")
    if name in sizes:
      raise UserError(f"--mesh: {name} is given twice")
    if not size.removeprefix("-").isdigit() or int(size) < -1 or not int(size):
      raise UserError(
        f"--mesh={part}: want {name}:SIZE, at least 1, or -1 for the rest"
      )
    sizes[name] = int(size)
  if sum(size == -1 for size in sizes.values()) > 1:
    raise UserError(f"--mesh={text}: only one axis can take the rest (-1)")
  return MeshConfig(**{"data": 1} | sizes)


def make(choice: MeshConfig | None) -> jax.sharding.Mesh | None:
  """The mesh over the first of this process's devices; None where none is wanted.

  UserError where there are too few.
  """
  if choice is None:
    return None
  devices, sizes = jax.local_devices(), choice.sizes.values()
  if -1 not in sizes:
    count = 1
    for size in sizes:
      count *= size
    if count > len(devices):
      raise UserError(
        f"--mesh wants {count} devices, there are {len(devices)}; a smaller product of"
        " sizes, or -1 for one of them, fits"
      )
    devices = devices[:count]
  return mesh_lib.make_mesh(choice, devices)


def fill(batch_size: int, mesh) -> int:
  """The next number of rows that the mesh cuts evenly."""
  shards = mesh_lib.batch_shards(mesh) if mesh else 1
  return -(-batch_size // shards) * shards
