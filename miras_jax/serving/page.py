"""The page, its files, and what monitors ask."""

import pathlib

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

STATIC = pathlib.Path(__file__).parent / "static"
router = APIRouter()


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
def page(request: Request):
  """The page for browsers; for Label Studio, that the server is there."""
  if "text/html" in request.headers.get("accept", ""):
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})
  return health(request)


@router.head("/health", include_in_schema=False)
@router.get("/health", tags=["server"])
def health(request: Request):
  """That the server is there, and how busy it is."""
  service = request.app.state.service
  return {
    "status": "UP",
    "model": service.name,
    "slots": service.settings.slots,
    "answering": service.engine.answering,
    "waiting": service.engine.waiting,
    "conversations": len(service.store),
  }


@router.get("/metrics", tags=["server"], response_class=Response)
def metrics(request: Request):
  """Counters in Prometheus' text form."""
  counted = request.app.state.service.metrics
  return Response(counted.text(), media_type=counted.content_type)
