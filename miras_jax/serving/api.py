"""The JSON API of conversations, under /v1/conversations."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, StreamingResponse

from input_pipeline import image_ops
from miras_jax import drawing
from miras_jax.errors import UserError
from miras_jax.serving import asking, documents, inputs, validation
from miras_jax.serving.asking import Service
from miras_jax.serving.messages import NewTalk, Say
from miras_jax.serving.refusals import Unknown
from miras_jax.serving.talks import Talk

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])
PNG, JPEG = {"media_type": "image/png"}, {"media_type": "image/jpeg"}
NEW_TALK = {
  "required": True,
  "content": {
    "application/json": {"schema": NewTalk.model_json_schema()},
    "multipart/form-data": {
      "schema": {
        "type": "object",
        "required": ["image"],
        "properties": {"image": {"type": "string", "format": "binary"}},
      }
    },
  },
}


def service_of(request: Request) -> Service:
  return request.app.state.service


def talk_of(id: str, request: Request) -> Talk:
  return service_of(request).store.get(id)


The = Annotated[Service, Depends(service_of)]
This = Annotated[Talk, Depends(talk_of)]


@router.post("", status_code=201, openapi_extra={"requestBody": NEW_TALK})
async def start(request: Request, service: The):
  """Starts a conversation about an image."""
  if "application/json" in request.headers.get("content-type", ""):
    image, name = _from_json(await request.body(), service)
  else:
    image, name = await _from_form(request)
  talk = await service.new_talk(image, name)
  service.store.add(talk)
  return documents.talk_json(talk)


def _from_json(body, service):
  try:
    asked = NewTalk.model_validate_json(body)
  except ValidationError as error:
    raise UserError(validation.line(error.errors())) from None
  limit = service.settings.upload_bytes
  return inputs.bytes_of(asked.image, "image", limit), asked.name


async def _from_form(request):
  async with request.form(max_files=1, max_fields=4) as form:
    upload = form.get("image")
    if not isinstance(upload, UploadFile):
      raise UserError("want a form with the file `image`, or JSON with its base64")
    return await upload.read(), upload.filename


@router.get("/{id}")
def history(talk: This):
  """The conversation so far; also what its download holds."""
  return documents.talk_json(talk)


@router.delete("/{id}", status_code=204)
def delete(id: str, service: The):
  """Forgets a conversation and its image."""
  service.store.remove(id)


@router.post("/{id}/say")
async def say(body: Say, request: Request, service: The, talk: This):
  """Answers a message; with `stream`, events `text`, then `turn` or `error`."""
  if body.stream:
    return await _stream(service, talk, body)
  turn = await asking.answer(service, talk, body, request.is_disconnected)
  return await run_in_threadpool(_last, talk, turn)


def _last(talk, turn):
  return documents.turn_json(talk, turn, len(talk.turns) - 1)


async def _stream(service, talk, body):
  told = asking.events(service, talk, body)
  await anext(told)  # what is wrong with the question is a status, not an event

  async def lines():
    try:
      async for kind, value in told:
        if kind == "text":
          yield _event("text", {"text": value})
        elif kind == "turn":
          yield _event("turn", await run_in_threadpool(_last, talk, value))
        else:
          yield ": wait\n\n"
    except UserError as error:
      yield _event("error", {"error": validation.one_line(str(error))})
    finally:
      await told.aclose()

  headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
  return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(kind, value):
  return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


@router.post("/{id}/undo")
def undo(talk: This):
  """Forgets the last question and its answer."""
  return _changed(talk, talk.undo)


@router.post("/{id}/reset")
def reset(talk: This):
  """Forgets the turns, keeps the image."""
  return _changed(talk, talk.reset)


def _changed(talk, change):
  talk.begin()
  try:
    change()
  finally:
    talk.end()
  return documents.talk_json(talk)


@router.post("/{id}/fork", status_code=201)
def fork(service: The, talk: This):
  """Another conversation that has said the same so far."""
  other = talk.fork()
  service.store.add(other)
  return documents.talk_json(other)


@router.get("/{id}/image.jpg", response_class=Response)
async def image(service: The, talk: This):
  """The image as the model sees it: turned as its EXIF orientation says."""
  return Response(await service.decode(_jpeg, talk), **JPEG)


def _jpeg(talk):
  return drawing.encode(image_ops.decode_image(talk.image), "JPEG")


@router.get("/{id}/masks/{number}.png", response_class=Response)
def mask_png(number: int, talk: This):
  """A mask: white inside, black outside."""
  return Response(documents.mask_png(_mask(talk, number).array()), **PNG)


@router.get("/{id}/masks/{number}.json")
def mask_json(number: int, talk: This):
  """A mask as RLE and polygons."""
  document = documents.mask_json(talk, _mask(talk, number), number)
  return _download(document, f"mask_{number}.json")


@router.get("/{id}/labelme.json")
def labelme(talk: This):
  """All masks as a file that labelme opens beside the image."""
  return _download(documents.labelme_json(talk), "labelme.json")


@router.get("/{id}/conversation.json")
def download(talk: This):
  """The conversation as a file."""
  return _download(documents.talk_json(talk), "conversation.json")


def _mask(talk, number):
  masks = talk.masks
  if not 0 <= number < len(masks):
    raise Unknown(f"no mask {number}; this conversation has {len(masks)}")
  return masks[number]


def _download(document, name):
  headers = {"Content-Disposition": f'attachment; filename="{name}"'}
  return JSONResponse(document, headers=headers)
