"""X-AnyLabeling's remote server: /v1/models and /v1/predict.

Its client wants most errors as `success: false` with status 200, a full queue as 503.
"""

import math
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse

from miras_jax.errors import UserError
from miras_jax.serving import assistants, inputs, validation
from miras_jax.serving.refusals import Busy

router = APIRouter(prefix="/v1", tags=["X-AnyLabeling"])
WIDGETS = (
  "edit_text", "button_send", "button_add_point", "button_remove_point",
  "button_add_rect", "button_clear", "button_finish_object", "mask_fineness_slider",
  "toggle_preserve_existing_annotations",
)  # fmt: skip
FINENESS = 0.001  # of a polygon's length, where the client names none


class Predict(BaseModel):
  model: str
  image: str
  params: dict[str, Any] = {}


@router.get("/models")
def models(request: Request):
  """The one model that is served."""
  name = request.app.state.service.name
  model = {
    "display_name": name,
    "widgets": [{"name": widget, "value": None} for widget in WIDGETS],
    "params": {},
    "batch_processing_mode": "text_prompt",
  }
  return {"success": True, "data": {name: model}}


@router.post("/predict")
async def predict(body: Predict, request: Request):
  """Masks as polygons; the answer's text is the description."""
  service = request.app.state.service
  try:
    if body.model != service.name:
      raise UserError(f"no model {body.model[:100]!r}; there is {service.name!r}")
    image = inputs.bytes_of(body.image, "image", service.settings.upload_bytes)
    points, box = _marks(body.params.get("marks") or [])
    text = str(body.params.get("text_prompt") or assistants.POINTED)
    talk, turn = await assistants.ask(
      request.app, image, request, text=text, points=points, box=box
    )
  except Busy as error:
    return JSONResponse({"detail": str(error)}, 503, error.headers)
  except UserError as error:
    message = validation.one_line(str(error))
    return {"success": False, "error": {"code": "NOT_ANSWERED", "message": message}}
  shapes = _shapes(turn, body.params, text)
  return {"success": True, "data": {"shapes": shapes, "description": turn.text}}


def _marks(marks):
  """(points, box) of what was clicked; the last rectangle counts."""
  points, box = [], None
  try:
    for mark in marks:
      data = [float(number) for number in mark["data"]]
      if mark["type"] == "point":
        points.append((*data, bool(mark.get("label", 1))))
      else:
        box = data
  except (TypeError, KeyError, ValueError, AttributeError):
    raise UserError("marks: want a list of {type, data: [numbers], label}") from None
  if any(len(point) != 3 for point in points) or box is not None and len(box) != 4:
    raise UserError("marks: a point has two numbers, a rectangle four")
  if not all(map(math.isfinite, [*(box or ()), *(n for p in points for n in p)])):
    raise UserError("marks: a number is not finite")
  return points, box


def _shapes(turn, params, text):
  least = _number(params.get("conf_threshold"), 0.0)
  fineness = _number(params.get("epsilon_factor"), FINENESS)
  return [
    {
      "label": mask.words or (text if "text_prompt" in params else "object"),
      "shape_type": "polygon",
      "points": [*outline, outline[0]],
      "score": round(mask.iou, 4),
      "group_id": number,
      "description": turn.text,
    }
    for number, mask in enumerate(turn.masks, 1)
    if mask.iou >= least
    for outline in assistants.polygons(mask.array(), fineness)
  ]


def _number(value, otherwise):
  usable = isinstance(value, int | float) and 0 <= value <= 1
  return float(value) if usable else otherwise
