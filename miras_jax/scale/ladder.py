"""`--study=ladder --measure`: a ladder of small models, trained, scored and fitted.

Each rung is a run of the real trainer on the config's data: the decoder's width and
depth, the conversations it sees and its training FLOPs grow together, every rung with
twice the FLOPs of the one before. All share one tokenizer and one row length. A rung is
scored on the same held-out conversations: the loss it was trained on, over all of them,
and `miras eval`'s cIoU of its own answers. Then loss and 1 - cIoU against FLOPs are
fitted by power laws (power_law.py).

A rung that has a rung.json is not trained again; one that was stopped goes on.
"""

import dataclasses
import json
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from miras_jax import logs
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.evaluation import evaluate
from miras_jax.evaluation.records import read_records
from miras_jax.inference.load import open_checkpoint
from miras_jax.models import flops
from miras_jax.scale import power_law
from miras_jax.training import command as train
from miras_jax.training import sources, task
from miras_jax.training import step as train_step

# Width and depth of the decoder over the config's own.
RUNGS = ((0.5, 0.5), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0), (1.5, 1.5), (2.0, 2.0))
BUDGET = 8e12  # training FLOPs of the last rung: minutes on two cores
GROWTH = 2.0  # of FLOPs from rung to rung
PASSES = 2  # over a rung's conversations
WARMUP = 0.1  # of the steps, at most the config's
HELD_OUT = 300  # conversations


class Rung(NamedTuple):
  """A run to be trained. `config` is fitted; `flops` of its whole training."""

  name: str
  config: object
  flops: float
  conversations: int  # that it may draw from

  @property
  def settings(self):
    """What a finished rung must have had alike to be taken over."""
    plain = dataclasses.asdict(self.config)
    for name in ("mesh", "distributed", "compile_cache"):
      plain.pop(name)
    return plain


def run(config, out, *, budget=BUDGET, rungs=5, train_them=True):
  """{rungs, fits, ...} of ladder.json. Trains what is not there, with a bar over rungs.

  train_them: False lists the rungs alone. Raises UserError.
  """
  out = pathlib.Path(out)
  ladder = plan(config, out, budget=budget, rungs=rungs)
  if not train_them:
    return {"budget": budget, "rungs": [_described(r) for r in ladder], "fits": {}}
  results = []
  with tqdm.tqdm(ladder, desc="ladder", unit="rung") as bar:
    for rung in bar:
      bar.set_postfix_str(rung.name)
      results.append(finished(rung, out) or climb(rung, out, config.data))
  return {"budget": budget, "rungs": results, "fits": fits(results)}


def plan(config, out, *, budget, rungs):
  """The Rungs, the smallest first. Raises UserError for a budget that is too small."""
  if not 1 <= rungs <= len(RUNGS):
    raise UserError(f"--rungs={rungs}: want 1 to {len(RUNGS)}")
  if not config.data.split_eval:
    raise UserError("the ladder scores held-out data: config.data.split_eval is empty")
  if config.mixture:
    raise UserError(
      "the ladder scores one data set: --config.mixture=none trains on data.dir alone"
    )
  out.mkdir(parents=True, exist_ok=True)
  config = task.fitted_to_data(config, out / "tokenizer")
  size = len(sources.open_split(config, config.data.split_train))
  ladder = [
    _rung(config, i, budget / GROWTH ** (rungs - 1 - i), size) for i in range(rungs)
  ]
  short = next((r for r in ladder if r.config.steps < 2), None)
  if short:
    raise UserError(
      f"--budget={budget:g} leaves {short.name} without steps; it takes"
      f" {_step_flops(short.config):.3g} FLOPs a step"
    )
  return ladder


def _rung(config, index, budget, size):
  width, depth = RUNGS[index]
  llama = config.model.build().llama
  unit = 2 * llama.num_heads  # rotary needs even heads
  new_width = max(unit, round(llama.width * width / unit) * unit)
  new_depth = max(1, round(llama.depth * depth))
  overrides = config.model.overrides | {
    "llama.width": new_width,
    "llama.head_dim": new_width // llama.num_heads,
    "llama.mlp_width": round(llama.mlp_width * new_width / llama.width),
    "llama.depth": new_depth,
  }
  model = dataclasses.replace(config.model, overrides=overrides)
  config = dataclasses.replace(config, model=model)
  steps = round(budget / _step_flops(config))
  talks = config.batch_size * config.data.pack
  limit = min(size, max(talks, round(steps * talks / PASSES)))
  warmup = max(1, min(config.optim.warmup_steps, round(WARMUP * steps)))
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, limit=limit, split_eval=""),  # no probe
    optim=dataclasses.replace(config.optim, warmup_steps=warmup),
    steps=max(steps, 1),
    checkpoint_every=max(1, min(config.checkpoint_every, steps // 2)),
  )
  name = f"rung_{index + 1}_w{new_width}_d{new_depth}"
  return Rung(name, config, steps * _step_flops(config), limit)


def _step_flops(config):
  return flops.example(config).useful * config.batch_size


def _described(rung):
  llama = rung.config.model.build().llama
  return {
    "name": rung.name,
    "width": llama.width,
    "depth": llama.depth,
    "steps": rung.config.steps,
    "conversations": rung.conversations,
    "flops": rung.flops,
  }


def finished(rung, out):
  """The result of a rung that is done, or None. UserError when it was another one."""
  path = out / rung.name / "rung.json"
  if not path.is_file():
    return None
  saved = json.loads(path.read_text(encoding="utf-8"))
  ours = json.loads(json.dumps(rung.settings))
  if saved["settings"] != ours:
    different = [k for k in ours if saved["settings"].get(k) != ours[k]]
    raise UserError(
      f"{path.parent} was trained with another {', '.join(different)}; take another"
      " --out, or the --config and --budget it was made with"
    )
  return saved["result"]


def climb(rung, out, data):
  """Trains one rung, scores it on the held-out split of `data`, a DataChoice."""
  folder = workdir.Workdir(out / rung.name)
  start = time.perf_counter()
  logs.log.info("%s: %d steps, %.3g FLOPs", rung.name, rung.config.steps, rung.flops)
  train.run(rung.config, folder)
  if folder.steps()[-1:] != [rung.config.steps]:
    raise KeyboardInterrupt  # SIGTERM stopped it; run again, it goes on
  trained_s = time.perf_counter() - start
  result = _described(rung) | score(folder, data)
  result |= {"train_s": trained_s, "score_s": time.perf_counter() - start - trained_s}
  text = json.dumps({"settings": rung.settings, "result": result}, indent=1)
  workdir.write_atomically(folder.path / "rung.json", text + "\n")
  return result


def score(folder, data):
  """Held-out loss, its terms, and cIoU with its bootstrap interval, of a run."""
  loaded = open_checkpoint(folder.path)
  total, terms = held_out_loss(loaded, data.split_eval)
  config = dataclasses.replace(loaded.config, data=data)
  source = sources.open_split(config, data.split_eval)
  found = read_records(source, HELD_OUT, shown=data.dir)
  options = evaluate.Options(controls=False, batch_size=min(64, len(found.records)))
  scores = evaluate.evaluate(
    loaded, found.records, options, image_of=found.image_of
  ).result
  return {
    "parameters": _count(loaded.config),
    "loss": total,
    "terms": terms,
    "ciou": scores["metrics"]["ciou"],
    "ciou_forced": scores["teacher_forced"]["ciou"],
    "held_out": scores["data"]["conversations"],
  }


def _count(config):
  """Parameters as they were trained: what answers has no adapters any more."""
  shapes = jax.eval_shape(task.model_task(config).init, jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))


def held_out_loss(loaded, split):
  """(loss, {term: mean}) over all held-out targets, not a mean of batches' means."""
  objective = task.model_task(loaded.config).objective
  objective = dataclasses.replace(objective, model=loaded.model)

  @jax.jit
  def add(params, sums, counts, batch):
    more, _ = objective.sums(params, batch, None)
    counted = objective.counts(batch)
    return (
      {k: sums[k] + more[k] for k in sums},
      {k: counts[k] + counted[k] for k in counts},
    )

  sums = dict.fromkeys(objective.weights, np.float32(0))
  counts = dict(sums)
  data = dataclasses.replace(loaded.config.data, split_eval=split)
  config = dataclasses.replace(loaded.config, data=data)
  batches = task.held_out(config, loaded.tokenizer, limit=HELD_OUT)
  for batch in batches:
    sums, counts = add(loaded.params, sums, counts, batch)
  batches.close()
  total = train_step.total_loss(objective.weights, sums, counts)
  terms = {k: float(sums[k] / np.maximum(counts[k], 1)) for k in sums}
  return float(total), terms


def fits(results):
  """{"loss": fit, "1 - ciou": fit, ...}: power_law.Fit as plain numbers."""
  columns = {
    "loss": [r["loss"] for r in results],
    "1 - ciou": [1 - r["ciou"]["value"] for r in results],
    "1 - ciou, teacher-forced": [1 - r["ciou_forced"]["value"] for r in results],
  }
  x_N, out = [r["flops"] for r in results], {}
  for name, y_N in columns.items():
    try:
      curve = power_law.fit(x_N, y_N)
    except ValueError as error:
      logs.log.warning("%s: no fit: %s", name, error)
      continue
    x_G = np.geomspace(min(x_N), 4 * max(x_N), 40)
    low_G, high_G = curve.band(x_G)
    plain = curve._asdict() | {"x": x_G.tolist(), "y": curve(x_G).tolist()}
    plain |= {"y_low": low_G.tolist(), "y_high": high_G.tolist()}
    plain.pop("samples_R3")
    out[name] = plain
  return out
