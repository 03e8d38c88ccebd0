"""The launches whose text is kept in golden/; `python -m tests.launch.cases` writes it.

A change of a template is seen as a change of these files.
"""

import contextlib
import functools
import io
import pathlib

from miras_jax.launch import command

GOLDEN = pathlib.Path(__file__).parent / "golden"
STAGE2 = "--config=configs/miras_7b_stage2.py:size={size},attention={attention}"
COMMON = ("--config.data.dir=/mnt/data/prist", "--config.init_from=/mnt/data/start")


def _seven(attention="splash", workdir="gs://lab/runs/stage2"):
  config = STAGE2.format(size="7b", attention=attention)
  return (config, f"--workdir={workdir}", *COMMON)


def _tiny():
  small = STAGE2.format(size="tiny", attention="xla")
  batch = ("--config.batch_size=64", "--config.optim.accumulation=1")
  return (small, "--workdir=gs://lab/runs/tiny", *COMMON, *batch)


IMAGE = "--image=eu-docker.pkg.dev/lab/images/miras:1"
BATCH_32 = ("--config.batch_size=160", "--config.optim.accumulation=5")
CASES = {
  "gke_tpu.yaml": (
    "gke", "--print", "--topology=v5e:4x4x2", IMAGE, "--queue=research", "--kueue",
    "--spot", "--volume=data:/mnt/data", *_seven(workdir="/mnt/data/runs/stage2"),
    *BATCH_32,
  ),
  "gke_one_vm.yaml": ("gke", "--topology=v6e:2x2", IMAGE, *_tiny()),
  "gke_one_chip.yaml": ("gke", "--topology=v5e:1x1", IMAGE, *_tiny()),
  "gke_gpu.yaml": (
    "gke", "--topology=h100:8x4", IMAGE, "--volume=data:/mnt/data",
    "--namespace=vision", *_seven("cudnn"), *BATCH_32, "--config.mesh.fsdp=8",
    "--restarts=20",
  ),
  "xpk.sh": (
    "xpk", "--topology=v6e-16", IMAGE, "--cluster=pods", "--zone=us-east5-b",
    "--priority=high", *_tiny(),
  ),
  "queued.sh": (
    "queued", "--topology=v5p:2x2x4x2", IMAGE, "--zone=us-east5-a", "--spot", *_tiny(),
  ),
  "slurm.sh": (
    "slurm", "--topology=h100:8x4", "--time=24:00:00", "--restarts=6",
    "--partition=gpu", "--venv=/shared/miras venv", *_tiny(),
  ),
  "sky_tpu.yaml": ("sky", "--topology=v5e:4x4", *_tiny()),
  "sky_gpu.yaml": ("sky", "--topology=h200:8x2", "--spot", *_tiny()),
}  # fmt: skip


@functools.cache
def text(name) -> str:
  """What the command writes."""
  return written(*CASES[name])


def written(*argv) -> str:
  """Standard output of `miras launch argv...`."""
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    assert command.main(list(argv)) == 0
  return out.getvalue()


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for case in CASES:
    (GOLDEN / case).write_text(text(case), encoding="utf-8")
