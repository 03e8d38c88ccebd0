"""The application: doors, limits around them, and errors as one line of JSON."""

import contextlib

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.serving import (
  api,
  label_studio,
  osam,
  page,
  refusals,
  validation,
  x_anylabeling,
)
from miras_jax.serving.asking import Service
from miras_jax.serving.assistants import Pictures
from miras_jax.serving.guard import Guard


def make_app(service: Service) -> FastAPI:
  """The server of one model; its engine runs while the application does."""

  @contextlib.asynccontextmanager
  async def running(app):
    service.engine.start()
    yield
    service.engine.close()

  app = FastAPI(
    title="miras serve",
    description="Talk about an image; answers are text and masks.",
    version="1",
    lifespan=running,
    docs_url=None,  # their pages load scripts from elsewhere
    redoc_url=None,
  )
  app.state.service = service
  app.state.pictures = Pictures()
  for part in (api, label_studio, x_anylabeling, osam, page):
    app.include_router(part.router)
  app.mount("/static", StaticFiles(directory=page.STATIC))
  limit = service.settings.upload_bytes * 4 // 3 + 2**16  # base64 is a third longer
  app.add_middleware(Guard, most_bytes=limit, metrics=service.metrics)
  _answer_errors(app)
  return app


def _answer_errors(app):
  @app.exception_handler(UserError)
  def refused(request, error):
    headers = getattr(error, "headers", None)
    return _error(str(error), refusals.status_of(error), headers)

  @app.exception_handler(RequestValidationError)
  def not_valid(request, error):
    return _error(validation.line(error.errors()), 422)

  @app.exception_handler(HTTPException)
  def stopped(request, error):
    return _error(str(error.detail), error.status_code, error.headers)

  @app.exception_handler(Exception)
  def failed(request, error):
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error("the server failed on this; its log says why", 500)


def _error(text, status, headers=None):
  return JSONResponse({"error": validation.one_line(text)}, status, headers)
