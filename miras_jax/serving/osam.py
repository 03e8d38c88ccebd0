"""osam's POST /api/generate, which labelme-like tools speak."""

import base64

from fastapi import APIRouter, Request
from pydantic import BaseModel

from miras_jax.errors import UserError
from miras_jax.serving import assistants, inputs
from miras_jax.serving.documents import box_of, mask_png
from miras_jax.serving.messages import Number

router = APIRouter(prefix="/api", tags=["osam"])
BOX_CORNERS = (2, 3)  # among the labels of points, beside 1 inside and 0 outside


class Prompt(BaseModel):
  points: list[tuple[Number, Number]] | None = None
  point_labels: list[int] | None = None
  texts: list[str] | None = None


class Generate(BaseModel):
  model: str
  image: str
  prompt: Prompt | None = None


@router.post("/generate")
async def generate(body: Generate, request: Request):
  """Masks as PNG in their bounding boxes, whose corners are both inside."""
  limit = request.app.state.service.settings.upload_bytes
  image = inputs.bytes_of(body.image, "image", limit)
  prompt = body.prompt or Prompt()
  points, box = _pointed(prompt)
  texts = prompt.texts or [assistants.POINTED]
  _, turn = await assistants.ask(
    request.app, image, request, text=" ".join(texts), points=points, box=box
  )
  named = ", ".join(prompt.texts or ()) or None
  found = [_annotation(mask, named) for mask in turn.masks]
  return {"model": body.model, "annotations": [a for a in found if a]}


def _pointed(prompt):
  points, labels = prompt.points or [], prompt.point_labels or []
  if len(points) != len(labels) or not set(labels) <= {0, 1, *BOX_CORNERS}:
    raise UserError("prompt: want a label of 0, 1, 2 or 3 for each point")
  marked = list(zip(points, labels, strict=True))
  inner = [(*point, label == 1) for point, label in marked if label not in BOX_CORNERS]
  corners = [[point for point, label in marked if label == n] for n in BOX_CORNERS]
  if [len(corner) for corner in corners] not in ([0, 0], [1, 1]):
    raise UserError("prompt: want one point of label 2 and one of 3 as a box, or none")
  box = (*corners[0][0], *corners[1][0]) if corners[0] else None
  return inner, box


def _annotation(mask, named):
  """None for an empty mask, which has no box."""
  array_HW = mask.array()
  box = box_of(array_HW)
  if box is None:
    return None
  x0, y0, x1, y1 = box
  return {
    "bounding_box": {"xmin": x0, "ymin": y0, "xmax": x1 - 1, "ymax": y1 - 1},
    "text": mask.words or named,
    "score": round(mask.iou, 4),
    "mask": base64.b64encode(mask_png(array_HW[y0:y1, x0:x1])).decode(),
  }
