"""Serves a model: a web page to talk on, JSON over HTTP, annotation tools.

  miras serve --checkpoint=runs/first
  miras serve --checkpoint=runs/first --port=8080 --slots=16

Open http://127.0.0.1:8000, drop an image, talk. Programs use /v1/conversations
(described by /openapi.json); Label Studio takes the address as a machine-learning
backend, X-AnyLabeling as a remote server, osam's clients as their server.
docs/serving.md shows each.

Anyone who reaches the port may use the model, and there is no encryption: it listens to
this machine alone (127.0.0.1) unless --host says otherwise; put a proxy that knows its
users before it.
"""

import os
import socket
import sys

from miras_jax import logs
from miras_jax.errors import UserError
from miras_jax.options import Parser
from miras_jax.serving.settings import Settings

BACKLOG = 2048


def main(argv):
  """`miras serve ...`; see the module's head."""
  args = _parse(argv)
  settings = _settings(args)
  if not 0 <= args.port < 65536:
    raise UserError(f"--port={args.port} is not within 0 to 65535")
  import uvicorn  # before anything is loaded: a missing extra is one line at once

  from miras_jax.inference import devices
  from miras_jax.serving.app import make_app
  from miras_jax.serving.asking import Service
  from miras_jax.serving.connection import MOST_WAITING, Connection

  logs.to_stderr()
  with _listen(args.host, args.port) as listening:
    print(f"loading {args.checkpoint}", file=sys.stderr)
    loaded = devices.load(args)
    name = os.path.basename(os.path.realpath(args.checkpoint))
    service = Service.of(loaded, settings, name)
    print("compiling what answers need", file=sys.stderr)
    _warm(service.engine, settings)
    config = uvicorn.Config(
      make_app(service),
      log_level="warning",
      log_config=None,  # its own would close the handlers of others
      backlog=BACKLOG,
      http=Connection,
      ws="none",
      limit_concurrency=MOST_WAITING + 4 * settings.queue + 100,
      timeout_graceful_shutdown=5,
      timeout_keep_alive=75,  # longer than clients wait after 429, and than proxies do
      server_header=False,
    )
    listening.listen(BACKLOG)  # before "ready" is said: who reads it may come at once
    print(f"ready: {_address(listening)}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def _address(listening):
  host, port = listening.getsockname()[:2]
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _parse(argv):
  parser = Parser(prog="miras serve", description=__doc__)
  add, path, default = parser.add_argument, parser.add_path, Settings()
  parser.add_place(
    "--checkpoint", required=True, help="a --workdir of `miras train`, or one step"
  )
  add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
  add("--port", type=int, default=8000, help="0 takes a free one (8000)")
  numbers = {
    "slots": "answers at a time; each needs its own cache on the device",
    "max_new_tokens": "longest answer",
    "chunk": "tokens that answers grow by between two looks at the queue",
    "read": "tokens of new questions that are read meanwhile, so that answers go on",
    "queue": "questions that wait; past it 429",
    "timeout": "seconds until a question that is not answered is given up",
    "conversations": "held; past it the one that was quiet for longest is forgotten",
    "memory_mb": "of images, texts and masks of conversations; likewise",
    "upload_mb": "of one image",
    "max_pixels": "of one image",
    "max_text": "characters of a message",
    "max_turns": "of a conversation",
  }
  for name, line in numbers.items():
    value = getattr(default, name)
    add(f"--{name}", type=type(value), default=value, help=f"{line} ({value:,})")
  add(
    "--image_hosts", default="", help="whose images requests may name, HOST,HOST:PORT"
  )
  add(
    "--label_studio_url",
    default="",
    help="where its files are asked for, with the token in LABEL_STUDIO_API_KEY",
  )
  path("--label_studio_files", default="", help="or the folder that holds them")
  from miras_jax.inference import devices

  devices.add_options(parser)
  return parser.parse_args(argv)


def _settings(args):
  given = {k: v for k, v in vars(args).items() if hasattr(Settings, k)}
  hosts = tuple(host for host in args.image_hosts.split(",") if host)
  return Settings(**given | {"image_hosts": hosts})


def _warm(engine, settings):
  from miras_jax.inference.generator import DoesNotFit

  try:
    engine.warm()
  except DoesNotFit:
    raise UserError(
      f"--slots={settings.slots}: the model with so many caches does not fit the"
      " device's memory; try fewer slots or a device with more memory"
    ) from None


def _listen(host, port):
  """A socket bound before minutes are spent on loading."""
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  listening = socket.socket(family, socket.SOCK_STREAM)
  listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listening.bind((host, port))
  except OSError as error:
    listening.close()
    raise UserError(f"--host={host} --port={port}: {error.strerror}") from None
  return listening
