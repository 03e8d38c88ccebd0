"""What is converted: sources of any kind as one tree with its config and tokenizer."""

import contextlib
import dataclasses
import functools
import pathlib
import re

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from miras_jax.config.overrides import with_overrides
from miras_jax.convert import infer, overlay, vocabulary
from miras_jax.convert.outputs import OUTPUTS, is_converted
from miras_jax.convert.sources import Source
from miras_jax.convert.tree import NEW_PARTS, CastTree, MergedTree, SourceTree
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.storage import copies, reach

# Of the new parts, what is added to features that a source was trained with.
ADDED = re.compile(r"mining/value_proj/")
# What reads SAM's features as no published model does.
OF_SAM = {"shared": "mining", "sam_only": "projector"}


@dataclasses.dataclass
class Job:
  """A tree to write.

  cfg MirasConfig of the tree; run RunConfig it comes from, or None; plan
  mapping.Plan of published sources, or None; tokenizer path or None; settings of the
  language model as Hugging Face wrote them; new paths with random values.
  """

  tree: object
  cfg: object
  sources: list
  run: object = None
  plan: object = None
  tokenizer: object = None
  settings: dict = dataclasses.field(default_factory=dict)
  new: list = dataclasses.field(default_factory=list)

  def close(self):
    for source in self.sources:
      source.close()


def open_job(
  paths,
  *,
  kinds="auto",
  to="ours",
  tokenizer="",
  overrides=None,
  new=(),
  seed=0,
  merge_lora=False,
  dtype="keep",
  dry_run=False,
):
  """Job of one of our folders or of published sources; nothing is read yet.

  kinds      "auto", one kind, or as many as paths, joined by commas
  tokenizer  path; "" looks beside the weights, "none" goes without
  overrides  {dotted field of MirasConfig: value}
  new        parts that start from random values, drawn with `seed`
  Raises UserError for whatever does not fit together.
  """
  if len(paths) == 1 and (tree := _our_tree(paths[0])) is not None:
    job = Job(
      tree,
      tree.config.model.build(),
      [tree],
      run=tree.config,
      tokenizer=tree.tokenizer if tree.tokenizer.is_dir() else None,
      settings=tree.settings,
    )
  else:
    needs_tokenizer = OUTPUTS[to].tokenizer and not dry_run
    plan = functools.partial(
      _plan,
      tokenizer=tokenizer,
      needs_tokenizer=needs_tokenizer,
      overrides=overrides or {},
      new=new,
      seed=seed,
    )
    job = _open_published(paths, kinds, plan)
  if merge_lora or OUTPUTS[to].merged:
    try:
      _merge(job, asked=merge_lora)
    except UserError:
      job.close()
      raise
  if dtype != "keep":
    job.tree = CastTree(job.tree, dtype)
  return job


@functools.cache
def expected_shapes(cfg):
  """{path: shape} of the model, without a number."""
  from miras_jax.models.miras import init_params

  shapes = jax.eval_shape(lambda key: init_params(cfg, key), jax.random.key(0))
  return {k: x.shape for k, x in flatten_dict(shapes, sep="/").items()}


def _our_tree(path):
  """FolderTree or WorkdirTree when `path` is one of ours, else None."""
  path = reach.path(path)
  trained = (path / "checkpoints").is_dir() or path.parent.name == "checkpoints"
  if not is_converted(path) and not trained and path.name != "checkpoints":
    return None
  from miras_jax.convert.folder import open_tree  # orbax: seconds, only needed here

  return open_tree(path)


def _open_published(paths, kinds, plan):
  with contextlib.ExitStack() as stack:
    paths = [copies.fetch(path) for path in paths]
    sources, named = [], {pathlib.Path(path).resolve() for path in paths}
    for path, kind in zip(paths, _kinds(kinds, paths), strict=True):
      sources.append(Source(path, kind, named=named))
      stack.callback(sources[-1].close)
    sources = overlay.in_order(sources)
    overlay.settle_head(sources)
    job = plan(sources)
    stack.pop_all()
    return job


def _kinds(text, paths):
  kinds = text.split(",")
  if len(kinds) == 1:
    return kinds * len(paths)
  if len(kinds) != len(paths):
    raise UserError(f"--from={text} names {len(kinds)} kinds for {len(paths)} sources")
  return kinds


def _plan(sources, *, tokenizer, needs_tokenizer, overrides, new, seed):
  """Job of published sources: config, tokenizer and mapping fit together."""
  shapes = infer.our_shapes(sources)
  cfg = infer.miras_config(sources, shapes, overrides)
  # CLIP's and OpenCLIP's folders have tokenizers and settings too, of other words.
  speakers = [s for s in sources if _speaks(s)]
  path, tokens = None, None
  if tokenizer != "none" and "llm/embed/embedding" in shapes:
    path = vocabulary.find(tokenizer, speakers, required=needs_tokenizer)
  if path and (needs_tokenizer or tokenizer):
    trained = any(p.startswith("seg_prompt/") for p in shapes)
    tokens = vocabulary.fit(path, cfg.llama.vocab_size, trained=trained)
  if tokens:
    cfg = with_overrides(cfg, {"llama.vocab_size": tokens.size})
  shapes = expected_shapes(cfg)
  if cfg.encoder != "dual":
    _leave_out(sources, {path.split("/")[0] for path in shapes} - set(new), cfg.encoder)
  random = Random(cfg, _new_paths(shapes, new), seed)
  tree = SourceTree(sources, shapes, vocabulary=tokens, random=random)
  found = [s.settings for s in speakers if "num_hidden_layers" in s.settings]
  return Job(
    tree,
    cfg,
    sources,
    plan=tree.plan,
    tokenizer=path,
    settings=found[0] if found else {},
    new=sorted(random.paths),
  )


def _leave_out(sources, parts, encoder):
  """Drops the tensors of all but `parts` of the model; says how many.

  UserError where what reads SAM's features would be taken from a model without them.
  """
  for source in sources:
    dropped = {}
    for key in list(source.infos):
      places = source.table.places(key)
      part = places[0].path.split("/")[0] if places else ""
      if part == OF_SAM[encoder] and part in parts:
        raise UserError(
          f"{source.file_of(key)}: {key!r} is of a model that reads no features of SAM"
          f" there; encoder={encoder!r} starts {part} from random values: --new={part}"
        )
      if part and part not in parts:
        dropped.setdefault(part, []).append(key)
    for part, keys in sorted(dropped.items()):
      for key in keys:
        source.drop(key)
      log.info(
        "%s: %d tensors of %s are left out, encoder=%r does not use them",
        source.path, len(keys), part, encoder,
      )  # fmt: skip


def _speaks(source):
  """Whether a source has a part of the language model."""
  return any(path.startswith("llm/") for path in infer.our_shapes([source]))


def _new_paths(shapes, parts):
  if unknown := [p for p in parts if p not in NEW_PARTS]:
    raise UserError(f"--new={unknown[0]}: there are {', '.join(NEW_PARTS)}")
  return {path for path in shapes if path.split("/")[0] in parts}


class Random:
  """Leaves with the model's own random values, made when the first one is read.

  What mining adds to the image tokens starts at zero, so that the language model of
  the sources goes on seeing what it was trained with.
  """

  def __init__(self, cfg, paths, seed):
    self.cfg, self.paths, self.seed = cfg, paths, seed

  def __getitem__(self, path):
    return self._values[path]

  @functools.cached_property
  def _values(self):
    from miras_jax.models.miras import init_params

    def make(key):
      flat = flatten_dict(init_params(self.cfg, key), sep="/")
      return {path: flat[path] for path in self.paths}

    # Compiled, so that what is not asked for is never made.
    made = jax.jit(make)(jax.random.key(self.seed))
    return {
      path: np.zeros(x.shape, x.dtype) if ADDED.match(path) else np.asarray(x)
      for path, x in made.items()
    }


def _merge(job, *, asked):
  if not job.cfg.llama.lora_rank:
    if asked:
      raise UserError("--merge-lora: there are no adapters in the source")
    return
  job.tree = MergedTree(job.tree, alpha=job.cfg.llama.lora_alpha)
  llama = dataclasses.replace(job.cfg.llama, lora_rank=0)
  job.cfg = dataclasses.replace(job.cfg, llama=llama)
