"""A server of buckets on loopback: gcp-storage-emulator, with what it leaves out.

  python -m tests.storage.emulator PORT DIR     one bucket, `bkt`; state in DIR

Added are an object's generation in the answer to a download, conditions on it, a bucket
`forbidden` to which nobody has access, and that a killed one has whole state.
"""

import functools
import http
import http.server
import json
import os
import pathlib
import sys

from gcp_storage_emulator import exceptions, server
from gcp_storage_emulator.storage import Storage

STATE = ".meta"  # below DIR: which objects there are

FORBIDDEN = {"error": {"code": 403, "message": "no access to this bucket"}}


def serve(port, folder):
  """Runs until it is killed."""
  http.server.HTTPServer.request_queue_size = 128
  for _, handlers in server.HANDLERS:
    handlers.update({method: conditional(call) for method, call in handlers.items()})
  Storage._write_config_to_file = functools.partialmethod(write_state, folder)
  options = {"default_bucket": "bkt", "data_dir": folder}
  server.create_server("127.0.0.1", port, **options).run()


def write_state(storage, folder):
  """The emulator's own way cuts the file before it writes it."""
  names = "buckets", "objects", "resumable", "bucket_iam_policies", "soft_deleted"
  text = json.dumps({name: getattr(storage, name) for name in names})
  path = pathlib.Path(folder, ".cloudstorage", STATE)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(STATE + ".new")
  temporary.write_text(text)
  os.replace(temporary, path)


def conditional(call):
  """A handler that looks at the conditions of a request first."""

  @functools.wraps(call)
  def handle(request, response, storage, *args, **kwargs):
    bucket = request.params.get("bucket_name", "")
    if bucket == "forbidden":
      response.status = http.HTTPStatus.FORBIDDEN
      response.json(FORBIDDEN)
      return
    now = generation(storage, bucket, name_of(request))
    if request.query.get("ifGenerationMatch", [now])[0] != now:
      response.status = http.HTTPStatus.PRECONDITION_FAILED
      return
    if request.query.get("ifGenerationNotMatch", [""])[0] == now:
      response.status = http.HTTPStatus.NOT_MODIFIED
      return
    call(request, response, storage, *args, **kwargs)
    if request.method == "GET" and now != "0":
      response["X-Goog-Generation"] = now

  return handle


def name_of(request):
  """The object that a request is about, "" where it is about none."""
  if name := request.params.get("object_id") or request.query.get("name", [""])[0]:
    return name
  if "uploadType" not in request.query:
    return ""
  data = request.data
  data = data.get("meta", data) if isinstance(data, dict) else {}
  return data.get("name", "")


def generation(storage, bucket, name):
  try:
    return str(storage.get_file_obj(bucket, name)["generation"])
  except exceptions.NotFound:
    return "0"


if __name__ == "__main__":
  serve(int(sys.argv[1]), sys.argv[2])
