"""Parameter trees by path: what trains, what is frozen, how much there is of each.

A path is the parameter's names joined by `/`, e.g. `llm/layers/attn/q_proj/lora_a`.
"""

import re

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.errors import UserError

# What trains, by name: regexes searched in the path (paper, section 4.1).
HEADS = (
  r"^llm/.*/lora_[ab]$",
  r"^llm/embed/",
  r"^llm/lm_head/",
  r"^seg_prompt/",
  r"^sam/(decoder|fine)/",
  r"^state(_tokens)?/",
)
TRAINABLE = {
  "lora_heads": HEADS,
  # The language model stays as it is: only what turns states into masks learns.
  "paper": (r"^seg_prompt/", r"^sam/(decoder|fine)/", r"^state(_tokens)?/"),
  "full": (r"",),
}
# Frozen leaves that keep float32 in a bfloat16 run: they are small and the rounding is
# not (SAM's Fourier matrix is multiplied by 2 pi, norms scale every activation).
KEEP_FLOAT32 = ("scale", "bias", "gamma", "gaussian")
# Absent under some configs (no LoRA, tied head, LISA): these may match nothing.
OPTIONAL = (r"^llm/.*/lora_[ab]$", r"^llm/lm_head/", r"^mining/", r"^state(_tokens)?/")
# SAM's random Fourier matrix is a constant of the published model.
NEVER = r"^sam/prompt_encoder/.*gaussian$"


def patterns_for(name, paths):
  """Regexes of a preset with suffixes, e.g. "lora_heads+clip_top_half".

  `paths` are all the tree's paths: "top half" and "last blocks" depend on its depth.
  Raises UserError naming an unknown part.
  """
  preset, *suffixes = name.split("+")
  if preset not in TRAINABLE:
    raise UserError(
      f"unknown trainable preset {preset!r} in {name!r};"
      f" there are {', '.join(TRAINABLE)}"
    )
  unknown = [s for s in suffixes if s not in SUFFIXES]
  if unknown:
    raise UserError(
      f"unknown suffix +{unknown[0]} in trainable={name!r};"
      f" there are {', '.join('+' + s for s in SUFFIXES)}"
    )
  extra = [p for s in suffixes for p in SUFFIXES[s](paths)]
  return TRAINABLE[preset] + tuple(extra)


def clip_top_half(paths):
  """The upper half of the CLIP blocks."""
  layers = sorted({m[1] for p in paths if (m := re.match(r"^clip/(layer_\d+)/", p))})
  if not layers:
    raise UserError("trainable suffix +clip_top_half: the model has no CLIP blocks")
  return (rf"^clip/({'|'.join(layers[len(layers) // 2 :])})/",)


def convnext_last_blocks(paths):
  """The last block of every ConvNeXt stage."""
  blocks = {}
  for path in paths:
    if found := re.match(r"^convnext/(stage_\d+)/(block_\d+)/", path):
      blocks[found[1]] = max(blocks.get(found[1], ""), found[2])
  if not blocks:
    raise UserError("trainable suffix +convnext_last_blocks: the model has no ConvNeXt")
  return tuple(f"^convnext/{stage}/{block}/" for stage, block in sorted(blocks.items()))


SUFFIXES = {
  # What published parts lack and `miras convert --new=...` adds.
  "projector": lambda paths: (r"^projector/",),
  "mining": lambda paths: (r"^mining/",),
  # Those of the two that `init_from` has as random numbers: a run writes them out.
  "new": lambda paths: (),
  "clip_top_half": clip_top_half,
  "convnext_last_blocks": convnext_last_blocks,
}


def split(params, patterns, optional=OPTIONAL) -> tuple[dict, dict]:
  """Returns (trainable, frozen), two nested dicts with no path in common.

  Raises ValueError for a pattern that matches no parameter, unless it is in `optional`.
  """
  flat = flatten_dict(params, sep="/")
  unused = [
    p for p in patterns if p not in optional and not any(re.search(p, k) for k in flat)
  ]
  if unused:
    raise ValueError(f"trainable patterns match no parameter: {unused}")
  picked = {
    k: v
    for k, v in flat.items()
    if any(re.search(p, k) for p in patterns) and not re.search(NEVER, k)
  }
  rest = {k: v for k, v in flat.items() if k not in picked}
  return unflatten_dict(picked, sep="/"), unflatten_dict(rest, sep="/")


def split_by_name(params, name) -> tuple[dict, dict]:
  """`split` by a preset's name."""
  return split(params, patterns_for(name, paths_of(params)))


def merge(trainable, frozen) -> dict:
  """The whole tree again; a path in both is an error."""
  left, right = flatten_dict(trainable, sep="/"), flatten_dict(frozen, sep="/")
  if both := left.keys() & right.keys():
    raise ValueError(f"in both trees: {sorted(both)[:3]}")
  return unflatten_dict(left | right, sep="/")


def paths_of(params):
  """Sorted `/`-joined paths of a nested dict."""
  return sorted(flatten_dict(params, sep="/"))


def count(params) -> int:
  """Number of values in a tree of arrays or shapes."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def num_bytes(params) -> int:
  return sum(
    int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(params)
  )


def summary(trainable, frozen) -> str:
  """A small table: parameters of each part, how many of them train."""
  parts = sorted(trainable.keys() | frozen.keys())
  lines = [f"{'part':<12}{'parameters':>15}{'trained':>15}"]
  for part in parts:
    trained, fixed = count(trainable.get(part, {})), count(frozen.get(part, {}))
    lines.append(f"{part:<12}{trained + fixed:>15,}{trained:>15,}")
  total = count(trainable) + count(frozen)
  lines.append(f"{'all':<12}{total:>15,}{count(trainable):>15,}")
  return "\n".join(lines)
