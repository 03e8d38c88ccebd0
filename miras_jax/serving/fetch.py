"""Images that a request names instead of sending: only from places that were allowed.

A server that opens any address it is given can be sent to look behind a firewall. So:
data URIs; hosts of `--image_hosts` and the Label Studio of `--label_studio_url`, no
redirect of theirs; files in the folder `--label_studio_files`, never outside.
"""

import os
import urllib.error
import urllib.parse
import urllib.request

from input_pipeline import safe_files
from miras_jax.errors import UserError
from miras_jax.serving import inputs
from miras_jax.serving.refusals import TooLarge
from miras_jax.serving.settings import Settings

SECONDS = 10.0
UPLOADS = "/data/"  # how Label Studio names the files that it holds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, *args):
    return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def image_bytes(source: str, settings: Settings) -> bytes:
  """Encoded bytes of the image at `source`. Raises UserError."""
  if source.startswith("data:"):
    return inputs.bytes_of(source, "image", settings.upload_bytes)
  if source.startswith("/"):
    return _uploaded(source, settings)
  parts = _parts(source)
  own = _parts(settings.label_studio_url) if settings.label_studio_url else None
  allowed = parts.netloc in settings.image_hosts
  if parts.scheme not in ("http", "https") or not (
    allowed or own and (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
  ):
    raise UserError(
      f"image: {source[:200]!r} is not allowed; send a data URI, or start the server"
      " with --image_hosts=HOST[:PORT]"
    )
  return _get(source, settings, with_token=own and parts.netloc == own.netloc)


def _parts(address):
  try:
    return urllib.parse.urlsplit(address)
  except ValueError:
    raise UserError(f"image: {address[:200]!r} is no address") from None


def _uploaded(path, settings):
  """A file that Label Studio holds: from its folder, else asked of it."""
  if settings.label_studio_files and path.startswith(UPLOADS):
    return _file(path.removeprefix(UPLOADS), settings)
  if settings.label_studio_url:
    address = urllib.parse.urljoin(settings.label_studio_url, path)
    return image_bytes(address, settings)
  raise UserError(
    f"image: {path[:200]!r} is a file of Label Studio; start the server with"
    " --label_studio_url=http://HOST:PORT or --label_studio_files=FOLDER"
  )


def _file(name, settings):
  name = urllib.parse.unquote(name.split("?")[0])
  try:
    path = safe_files.resolve_inside(settings.label_studio_files, name)
    return safe_files.read_bytes(path, settings.upload_bytes)
  except FileNotFoundError:
    raise UserError(f"image: {name[:200]!r}: no such file") from None
  except ValueError as error:
    raise UserError(f"image: {error}") from None


def _get(address, settings, with_token):
  token = os.environ.get("LABEL_STUDIO_API_KEY")
  headers = {"Authorization": f"Token {token}"} if with_token and token else {}
  try:
    request = urllib.request.Request(address, headers=headers)
    with _OPENER.open(request, timeout=SECONDS) as response:
      data = response.read(settings.upload_bytes + 1)
  except (OSError, ValueError, urllib.error.URLError) as error:
    raise UserError(f"image: {address[:200]!r} cannot be read: {error}") from None
  if len(data) > settings.upload_bytes:
    raise TooLarge(f"image: {address[:200]!r} has more than {settings.upload_mb} MB")
  return data
