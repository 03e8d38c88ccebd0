"""`miras bench convert`: a generated 7B checkpoint through `miras convert`.

  miras bench convert                    13.5 GB in, 13.5 GB out, all deleted after
  miras bench convert --scale=0.1        a tenth of the layers, tensors of the same size

Peak memory is the largest resident set of the converting process. The same run copies
the same files plainly; both read from the disk (the files leave the page cache first)
and end with the bytes on it.
"""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from miras_jax.config.variants import LLAMA_VARIANTS, TINY
from miras_jax.convert import hf
from miras_jax.convert.files import stream
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.convert.tree import empty_at
from miras_jax.errors import UserError

NOISE = 1 << 24  # different values; tensors repeat them from different places
COPIES = 2  # source and result at the same time


def main(argv):
  """Prints one table; status 1 when the result is not what was generated."""
  from miras_jax.options import Parser

  # fmt: off
  parser = Parser(prog="miras bench convert", description=__doc__)
  parser.add_argument("--scale", type=float, default=1.0, help="share of the layers")
  parser.add_argument("--dir", default="", help="where there is room")
  parser.add_argument("--out", default="", metavar="FILE.json", help="numbers as JSON")
  # fmt: on
  args = parser.parse_args(argv)
  if not 0 < args.scale <= 1:
    raise UserError(f"--scale={args.scale} is not in (0, 1]")
  cfg = scaled(args.scale)
  with tempfile.TemporaryDirectory(dir=args.dir or None, prefix="convert-") as folder:
    numbers = measure(pathlib.Path(folder), cfg)
  for name, value in numbers.items():
    print(f"{name:<22}{value:>12,.3f}")
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(numbers, indent=2) + "\n")
  return 0


def scaled(scale):
  """MirasConfig: Llama 2 7B of fewer layers; the other parts are tiny."""
  llama = LLAMA_VARIANTS["llama2-7b"]
  llama = dataclasses.replace(llama, depth=max(1, round(scale * llama.depth)))
  seg_prompt = dataclasses.replace(TINY.seg_prompt, alignment="none")
  return dataclasses.replace(TINY, llama=llama, seg_prompt=seg_prompt)


def measure(folder, cfg):
  """{name: number} of one copy and one conversion."""
  source = folder / "source"
  targets = published_noise(cfg)
  size = sum(t.info.nbytes for t in targets)
  free = shutil.disk_usage(folder).free
  if free < COPIES * size + (1 << 30):
    raise UserError(
      f"{folder.parent}: needs {COPIES * size / 1e9:,.1f} GB, {free / 1e9:,.1f} GB is"
      " free; take --dir or --scale"
    )
  generate(source, targets, cfg)
  copy_s = timed_copy(source, folder / "copy")
  convert_s, peak = timed_convert(source, folder / "ours", cfg)
  largest = max(t.info.nbytes for t in targets)
  return {
    "checkpoint_gb": size / 1e9,
    "largest_tensor_gb": largest / 1e9,
    "copy_s": copy_s,
    "copy_gb_per_s": size / 1e9 / copy_s,
    "convert_s": convert_s,
    "convert_gb_per_s": size / 1e9 / convert_s,
    "convert_over_copy": convert_s / copy_s,
    "peak_memory_gb": peak / 1e9,
  }


def published_noise(cfg):
  """[Target] of a MIRAS state dict in float16."""
  noise = np.random.default_rng(0).normal(size=NOISE).astype(np.float16)
  shapes = expected_shapes(cfg)
  targets = []
  for i, (key, origin) in enumerate(KINDS["miras"].origins(shapes).items()):
    empty = (empty_at(shapes[place.path], place) for place in origin.places)
    shape = origin.rule.inverse(*empty).shape
    targets.append(stream.Target(key, shape, np.float16, _repeated(noise, i, shape)))
  return targets


def _repeated(noise, i, shape):
  def arrays():
    left, start = int(np.prod(shape)), i * 4099 % (NOISE // 2)
    while left:
      part = noise[start : start + left]
      left, start = left - len(part), 0
      yield part

  return arrays


def generate(source, targets, cfg):
  shards = stream.plan_shards(targets)
  settings = hf.settings_of(cfg.llama, dtype="float16")
  texts = {"config.json": settings}
  if len(shards) > 1:
    texts["model.safetensors.index.json"] = stream.index_text(shards)
  stream.write_folder(source, shards, texts, identity="bench")


def timed_copy(source, folder):
  """Seconds to copy every file and have it on the disk; the copy is deleted."""
  drop_cache(source)
  folder.mkdir()
  start = time.perf_counter()
  for path in sorted(source.iterdir()):
    shutil.copyfile(path, folder / path.name)
    with open(folder / path.name, "rb") as f:
      os.fsync(f.fileno())
  seconds = time.perf_counter() - start
  shutil.rmtree(folder)
  return seconds


def timed_convert(source, folder, cfg):
  """(seconds, largest resident set in bytes) of `miras convert` in its own process."""
  drop_cache(source)
  command = [sys.executable, "-m", "miras_jax.convert", f"--src={source}"]
  command += [f"--dst={folder}", "--tokenizer=none"]
  command += [f"--set={name}={value}" for name, value in unseen_fields(cfg).items()]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  start = time.perf_counter()
  done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
  seconds = time.perf_counter() - start
  if done.returncode:
    raise UserError(f"miras convert ended with status {done.returncode}")
  # The largest of all children; this one is the only large one.
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  return seconds, peak * (1 if sys.platform == "darwin" else 1024)


def unseen_fields(cfg):
  """Fields of so small towers that neither weights nor settings show."""
  return {
    "clip.num_heads": cfg.clip.num_heads,
    "sam_decoder.num_heads": cfg.sam_decoder.num_heads,
    "seg_prompt.num_heads": cfg.seg_prompt.num_heads,
    "convnext.image_size": cfg.convnext.image_size,
    "convnext.target_grid": cfg.convnext.target_grid,
  }


def drop_cache(folder):
  """Asks the system to forget the files' pages, so that reading them is reading."""
  if not hasattr(os, "posix_fadvise"):
    return
  for path in folder.iterdir():
    with open(path, "rb") as f:
      os.fsync(f.fileno())
      os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
