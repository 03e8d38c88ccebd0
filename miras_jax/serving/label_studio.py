"""Label Studio's ML backend: /predict, /setup, /webhook.

What the annotator has clicked and typed comes as results, in percent of the picture;
masks go back as brush strokes in Label Studio's own run lengths, or as polygons.
"""

import asyncio
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from input_pipeline import image_ops
from input_pipeline.annotations import brush_rle
from miras_jax.errors import UserError
from miras_jax.serving import assistants, fetch, labeling_config, validation
from miras_jax.serving.refusals import Refusal

router = APIRouter(tags=["Label Studio"])
MAX_TASKS = 100
TASKS_AT_ONCE = 4


class Predict(BaseModel):
  tasks: list[dict[str, Any]]
  label_config: str
  project: Any = None
  params: dict[str, Any] = {}


@router.post("/setup")
def setup(request: Request):
  """Label Studio asks when the backend is connected."""
  return {"model_version": _version(request)}


@router.post("/webhook", status_code=201)
def webhook():
  """Nothing is learnt from annotations."""
  return {}


@router.post("/predict")
async def predict(body: Predict, request: Request):
  """Masks for tasks; `params.context` is what the annotator has just drawn or typed."""
  config = labeling_config.parse(body.label_config)
  if len(body.tasks) > MAX_TASKS:
    raise UserError(f"tasks: {len(body.tasks)}, the limit is {MAX_TASKS}")
  context = body.params.get("context") or {}
  context = context.get("result") if isinstance(context, dict) else None
  drawn = [r for r in context or [] if isinstance(r, dict)]
  turns = asyncio.Semaphore(TASKS_AT_ONCE)

  async def answer(task):
    async with turns:
      return await _predict_one(request, config, task, drawn)

  if len(body.tasks) == 1:
    return {"results": [await answer(body.tasks[0])]}

  async def answer_or_say_why(task):
    try:
      return await answer(task)
    except UserError as error:
      if isinstance(error, Refusal):  # not the fault of this task
        raise
      why = validation.one_line(str(error))
      return {"result": [], "score": 0.0, "error": why}

  return {"results": await asyncio.gather(*map(answer_or_say_why, body.tasks))}


async def _predict_one(request, config, task, drawn):
  settings = request.app.state.service.settings
  data = task.get("data")
  source = data.get(config.image) if isinstance(data, dict) else None
  if not isinstance(source, str):
    raise UserError(f"task: its data has no {config.image[:60]!r}")
  image = await run_in_threadpool(fetch.image_bytes, source, settings)
  size = image_ops.image_size(image, max_pixels=settings.max_pixels)
  say, label = _say(drawn, size)
  talk, turn = await assistants.ask(request.app, image, request, **say)
  results = [
    result
    for mask in turn.masks
    for result in _results(config.control, mask, talk.size, label)
  ]
  score = float(np.mean([mask.iou for mask in turn.masks])) if turn.masks else 0.0
  return {
    "result": results,
    "score": round(score, 4),
    "model_version": _version(request),
  }


def _say(drawn, size):
  """(arguments of Say, label that the annotator has chosen or "")."""
  points, box, text, label = [], None, "", ""
  for result in drawn:
    kind, value = str(result.get("type")), result.get("value")
    if not isinstance(value, dict):
      continue
    label = _chosen(value) or label
    if kind.startswith("keypoint"):
      [at] = _pixels([(value.get("x"), value.get("y"))], size)
      points.append((*at, bool(result.get("is_positive", True))))
    elif kind.startswith("rectangle"):
      box = _rectangle(value, size)
    elif kind == "textarea":
      text = _sentence(value.get("text")) or text
  pointed = f"Segment the {label}." if label else assistants.POINTED
  return {"text": text or pointed, "points": points, "box": box}, label


def _chosen(value):
  for key, labels in value.items():
    if key.endswith("labels") and isinstance(labels, list) and labels:
      return str(labels[0])[:200]
  return ""


def _sentence(text):
  """What was typed last."""
  texts = text if isinstance(text, list) else [text]
  return next((t for t in reversed(texts) if isinstance(t, str) and t.strip()), "")


def _rectangle(value, size):
  x, y, width, height = (value.get(key) for key in ("x", "y", "width", "height"))
  try:
    corners = [(x, y), (x + width, y + height)]
  except TypeError:
    raise UserError("context: a rectangle wants x, y, width and height") from None
  (x0, y0), (x1, y1) = _pixels(corners, size)
  return x0, y0, x1, y1


def _pixels(percents, size):
  """Points in percent -> in pixels, moved into the image."""
  try:
    percents = np.array(percents, np.float64).reshape(-1, 2)
  except (TypeError, ValueError):
    raise UserError("context: x and y want numbers, in percent") from None
  if not np.isfinite(percents).all():
    raise UserError("context: a coordinate is not finite")
  return assistants.inside(percents / 100 * np.array(size[::-1]), size)


def _results(control, mask, size, chosen):
  """The results of one mask: one brush stroke, or its polygons."""
  same = [name for name in control.labels if name.lower() == mask.words.lower()]
  label = (same or [n for n in control.labels if n == chosen] or control.labels)[:1]
  values = _brush if control.kind == "brushlabels" else _polygons
  for value in values(mask.array(), size):
    yield {
      "id": uuid.uuid4().hex[:10],
      "type": control.kind,
      "from_name": control.from_name,
      "to_name": control.to_name,
      "original_width": size[1],
      "original_height": size[0],
      "image_rotation": 0,
      "value": {**value, control.kind: list(label)},
      "score": round(mask.iou, 4),
      "readonly": False,
    }


def _brush(array_HW, size):
  yield {"format": "rle", "rle": brush_rle.encode(array_HW)}


def _polygons(array_HW, size):
  percent = 100 / np.array(size[::-1])
  for outline in assistants.polygons(array_HW, 0.001):
    yield {"points": (np.array(outline) * percent).tolist(), "closed": True}


def _version(request):
  service = request.app.state.service
  return f"{service.name} step {service.loaded.step}"
