"""The model card of a converted folder: what is known of it, and what people must say.

Markdown, written beside the weights as `card.md`. It is not in the manifest: whoever
gives the model away fills it in. Everything in it comes from the sources, the run's
config and the newest evaluation of the same step that lies in the run's folder.
"""

import json
import math
import pathlib

from input_pipeline.regular_file import SMALL_JSON, read_bytes
from miras_jax.errors import UserError
from miras_jax.logs import log

FILL = "_(to be filled in)_"
# Rows of an evaluation that the card repeats, where there are such.
METRICS = ("ciou", "giou", "precision_micro", "recall_micro", "f1_micro", "seg_rate")
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
LOSSES = ("token_ce", "mask_bce", "dice", "focal", "boundary", "iou")
STATE_LOSSES = ("state_pointer", "state_relation", "state_mask")


def text(job, run, dtype: str) -> str:
  """Markdown for a Job (job.py). run: RunConfig of the result; dtype: its numbers'."""
  blocks = [
    "# Model card",
    "A model that answers a conversation about an image in text and with masks, in the"
    " form of miras_jax. Open it with `miras chat --checkpoint=DIR --image=photo.jpg`,"
    " `miras serve --checkpoint=DIR` or `Predictor.load(DIR)`.",
    "## Model",
    _rows(_model(job, run, dtype)),
    "## Origin",
    _rows(_origin(job)),
    *_random_parts(job),
    *_training(job),
    "## Evaluation",
    evaluation(job.sources[0]),
    "## Use",
    _rows(
      {
        "intended use": FILL,
        "not meant for": FILL,
        "known limits, biases": FILL,
        "licence": f"{FILL} The weights and data above have licences of their own.",
        "contact": FILL,
      }
    ),
    "Masks and texts may be wrong. Look at the controls of an evaluation before you"
    " take a mask for an answer to the conversation.",
  ]
  return "\n\n".join(blocks) + "\n"


def _model(job, run, dtype):
  cfg, infos = job.cfg, job.tree.infos
  llama = cfg.llama
  count = sum(math.prod(info.shape) for info in infos.values())
  lora = f"rank {llama.lora_rank}, alpha {llama.lora_alpha:g}"
  lora = f"{lora}, on {', '.join(llama.lora_targets)}" if llama.lora_rank else "none"
  return {
    "size": run.model.variant,
    "parameters": f"{count:,}, stored as {dtype}",
    "language model": f"{llama.depth} layers of width {llama.width},"
    f" {llama.vocab_size:,} words",
    "adapters": lora,
    "image encoders": f"{cfg.encoder}, {cfg.num_image_tokens} image tokens",
    "earlier masks": _state(run.model),
    "presence token": "yes" if cfg.sam_decoder.presence else "no",
    "mask canvas": f"{cfg.sam_encoder.image_size} pixels a side",
    "alignment of names": cfg.seg_prompt.alignment,
    "view of the image": run.data.view,
    "template": run.data.template,
  }


def _state(model):
  if model.state == "none":
    return "not seen"
  return f"{model.state}, the latest {model.state_slots}"


def _losses(run):
  """Names of the terms that the model has a part for."""
  cfg = run.model.build()
  yield from LOSSES
  if cfg.sam_decoder.presence:
    yield "presence"
  if cfg.has_dense_state:
    yield from STATE_LOSSES


def _stages(stages):
  shares = {"parts": stages.parts, "align": stages.align}
  named = [f"{share:.0%} {name}" for name, share in shares.items() if share]
  return ", ".join([*named, "then conversations"] if named else ["one"])


def _origin(job):
  """Where the weights come from; names alone, no folders of the machine."""
  step = getattr(job.sources[0], "step", None)
  if step is not None:
    begun = job.run.init_from
    return {
      "step": f"{step:,} of {job.run.steps:,}",
      "started from": pathlib.PurePath(begun).name if begun else "random numbers",
    }
  paths = [getattr(source, "path", None) or source.folder for source in job.sources]
  return {"converted from": ", ".join(pathlib.PurePath(path).name for path in paths)}


def _random_parts(job):
  new = job.new or list(getattr(job.sources[0], "new", ()))
  parts = sorted({path.split("/")[0] for path in new})
  if parts:
    yield f"**Random numbers, which have to be trained:** {', '.join(parts)}."


def _training(job):
  run = job.run
  # Published weights have the config of no run, or the defaults of one.
  if run is None or not (
    hasattr(job.sources[0], "step") or run.data.dir or run.mixture
  ):
    return
  optim, loss = run.optim, run.loss
  terms = [f"{getattr(loss, t):g} {t}" for t in _losses(run) if getattr(loss, t)]
  mixture = ", ".join(f"{name} {weight:g}" for name, weight in run.mixture.items())
  yield "## Training"
  yield _rows(
    {
      "data": mixture or pathlib.PurePath(run.data.dir).name or FILL,
      "what trained": run.trainable,
      "stages": _stages(run.stages),
      "loss": " + ".join(terms),
      "optimizer": f"{optim.name}, rate {optim.lr:g}, {optim.schedule} schedule",
      "batch": f"{run.batch_size} rows, accumulation {optim.accumulation},"
      f" conversations a row: {run.data.pack} at most",
      "seed": run.seed,
      "data card": FILL,
    }
  )


def evaluation(source) -> str:
  """The table of an evaluation of a WorkdirTree's step, if its run's folder has one."""
  step, workdir = (getattr(source, name, None) for name in ("step", "folder"))
  results = [] if step is None else workdir.path.glob("*/metrics.json")
  # `report` is what the examples of `miras eval` call it.
  for path in sorted(results, key=lambda p: (p.parent.name != "report", str(p))):
    try:
      found = json.loads(read_bytes(path, SMALL_JSON))
      if found["step"] == step:
        return _result(found)
    except (UserError, OSError, RecursionError, *_MALFORMED) as error:
      log.warning("%s: not used for the model card: %s", path, error)
  return f"{FILL} `miras eval --checkpoint=DIR --data=DIR --split=val --out=DIR/report`"


def _result(found):
  """Markdown of a metrics.json."""
  data, metrics = found["data"], found["metrics"]
  rows = {name: metrics[name] for name in METRICS if name in metrics}
  for control, table in found["controls"].items():
    measure = found.get("control_measures", {}).get(control, "ciou")
    rows[f"{measure}, control: {control.replace('_', ' ')}"] = table[measure]
  lines = [
    f"{data['conversations']:,} conversations, {data['targets']:,} targets on"
    f" {data['images']:,} images of {pathlib.PurePath(data['dir']).name}, split"
    f" {data['split']}; history: {data['history']}; 95 % intervals over images.",
    "",
    "| metric | value | interval |",
    "| --- | --- | --- |",
  ]
  for name, cell in rows.items():
    value, low, high = (_number(cell[key]) for key in ("value", "low", "high"))
    lines.append(f"| {name} | {value} | {low} - {high} |")
  return "\n".join(lines)


def _number(value):
  return "-" if value is None else f"{value:.3f}"


def _rows(facts):
  lines = ["| | |", "| --- | --- |"]
  cells = {k: str(v).replace("|", "\\|").replace("\n", " ") for k, v in facts.items()}
  return "\n".join(lines + [f"| {name} | {value} |" for name, value in cells.items()])
