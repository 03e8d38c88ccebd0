"""Reaching a bucket: paths, a time limit, trying again, and one line when it fails.

gs://BUCKET/PATH   a run's folder, data, weights, results
s3://BUCKET/PATH   what is copied in and out: data, weights, results

MIRAS_BUCKET_LIMIT_S   seconds that a bucket may be away before a command ends (300)
"""

import errno
import functools
import logging
import os
import pathlib
import queue
import re
import threading
import time

from miras_jax.errors import UserError
from miras_jax.logs import log

LIMIT_S = 300.0
LONGEST_WAIT_S = 30.0  # between two tries
SLOWEST = 1e6  # bytes a second; what is slower is taken for an answer that never comes
# scheme: (file system of fsspec, the extra or package that brings it, how to sign in)
SCHEMES = {
  "gs": ("gcs", "'miras_jax[gcs]'", "gcloud auth application-default login"),
  "s3": ("s3", "s3fs", "aws configure"),
}
# Of the local side of a copy: no bucket's, and nothing that waiting mends.
_LOCAL = (
  errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR,
  errno.ENOTDIR, errno.ENAMETOOLONG, errno.EMFILE,
)  # fmt: skip
_REMOTE = re.compile(rf"({'|'.join(SCHEMES)})://")
# What is meant for a bucket: gs:/b/x and GS://b/x would become folders of that name.
_MEANT = re.compile(rf"({'|'.join(SCHEMES)})(:|//)", re.IGNORECASE)
_BUCKET = re.compile(r"\w[\w.-]*", re.ASCII)
# Packages whose errors come from the way to a bucket, and words of those of others.
_CLIENTS = ("aiohttp", "gcsfs", "google", "requests", "urllib3", "botocore", "s3fs")
_OUTAGE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CURL error", "Couldn't connect")
_REFUSED = ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED", "Access Denied")
_given_up = threading.Event()


def is_remote(path) -> bool:
  """Whether a path (text or object) lies in a bucket."""
  return bool(_REMOTE.match(os.fspath(path)))


def check_spelling(place) -> None:
  """UserError for what is meant for a place in a bucket and names none, or two."""
  text = os.fspath(place)
  if not (meant := _MEANT.match(text)):
    return
  scheme = meant[1].lower()
  bucket, *parts = text.partition("://")[2].rstrip("/").split("/")
  if not is_remote(text) or not _BUCKET.fullmatch(bucket):
    raise UserError(f"{text}: names no bucket; want {scheme}://BUCKET/PATH")
  if {"", ".", ".."} & set(parts):
    raise UserError(
      f"{text}: want {scheme}://BUCKET/PATH without empty names, '.' and '..' in it"
    )


def path(place):
  """pathlib.Path of a local place, etils' epath.Path of one in a bucket.

  Raises UserError when it is misspelled, or what reads that kind of bucket is not
  installed.
  """
  check_spelling(place)
  if not is_remote(place):
    return pathlib.Path(place)
  from etils import epath

  filesystem(place)
  return epath.Path(os.fspath(place).rstrip("/"))


def full(place):
  """epath.Path of a place, as orbax wants it: absolute, or in a bucket."""
  from etils import epath

  return epath.Path(place) if is_remote(place) else epath.Path(place).absolute()


def filesystem(place):
  """fsspec's file system of a place in a bucket, the one that epath uses."""
  return _filesystem(os.fspath(place).partition(":")[0])


@functools.cache
def _filesystem(scheme):
  import fsspec

  name, package, _ = SCHEMES[scheme]
  # Other programs write there too, tensorstore among them: nothing is remembered.
  fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
  for logger in ("gcsfs", "google", "s3fs", "aiobotocore"):  # a traceback at each try
    logging.getLogger(logger).setLevel(logging.CRITICAL)
  options = {"finalize_on_close": True} if scheme == "gs" else {}
  try:
    return fsspec.filesystem(name, **options)
  except ImportError as error:
    raise UserError(f"{scheme}:// needs a package: pip install {package}") from error


def limit() -> float:
  """Seconds that a bucket may be away."""
  text = os.environ.get("MIRAS_BUCKET_LIMIT_S", "")
  try:
    return max(float(text or LIMIT_S), 1.0)
  except ValueError:
    raise UserError(f"MIRAS_BUCKET_LIMIT_S={text}: want a number of seconds") from None


def given_up() -> bool:
  """Whether a call was left behind in its thread: no clean end waits for it."""
  return _given_up.is_set()


def within(seconds, call):
  """`call()` in a thread of its own; TimeoutError when it takes longer than that."""
  done = queue.SimpleQueue()

  def run():
    try:
      done.put((call(), None))
    except BaseException as error:
      done.put((None, error))

  threading.Thread(target=run, daemon=True, name="bucket").start()
  try:
    result, error = done.get(timeout=seconds)
  except queue.Empty:
    _given_up.set()
    raise TimeoutError(f"no answer within {seconds:.0f} s") from None
  if error is not None:
    raise error
  return result


def write(place, doing, call, *, num_bytes=0):
  """`call()`; where it writes into a bucket, by `insist`."""
  if not is_remote(place):
    return call()
  return insist(place, doing, call, num_bytes=num_bytes)


def read(place, call, *, num_bytes=0):
  """`call()`; where it reads a bucket, by `insist`: what is missing is raised as it is.

  So damage, which is a matter of content, stays apart from a bucket that is away.
  """
  if not is_remote(place):
    return call()
  missing = []

  def try_once():
    try:
      return call()
    except Exception as error:
      if kind_of(error) != "missing":
        raise
      missing.append(error)

  found = insist(place, "cannot be read", try_once, num_bytes=num_bytes)
  if missing:
    raise missing[0]
  return found


def names(folder) -> list[str]:
  """Names of what lies in a folder, [] where there is none.

  epath's own `is_dir` and `exists` take a bucket that is away for one that is empty.
  """
  if not is_remote(folder):
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
  files = filesystem(folder)
  try:
    found = read(folder, lambda: files.ls(os.fspath(folder), detail=False))
  except FileNotFoundError:
    return []
  return [name.rstrip("/").rpartition("/")[2] for name in found]


def is_folder(place) -> bool:
  """Whether a folder is there; one in a bucket is there when it holds something."""
  return bool(names(path(place))) if is_remote(place) else path(place).is_dir()


def insist(place, doing, call, *, num_bytes=0, again=True):
  """`call()`, tried again with growing waits while the bucket is away.

  doing: what the error says was not done, e.g. "step 40 was not saved". Raises
  UserError in the end, at once for what waiting does not mend; an error that has
  nothing to do with a bucket is raised as it is. num_bytes: how much is moved, which
  takes its time. again: whether a second try may be made.
  """
  end, wait = time.monotonic() + limit() + num_bytes / SLOWEST, 1.0
  while True:
    try:
      return within(max(end - time.monotonic(), 1.0), call)
    except Exception as error:
      over = not again or given_up() or time.monotonic() + wait > end
      problem = as_user_error(place, doing, error)
      if problem is error:
        raise
      if over or kind_of(error) != "outage":
        raise problem from error
      log.warning("%s: %s (%s); trying again", place, doing, _text(error))
    time.sleep(wait)
    wait = min(2 * wait, LONGEST_WAIT_S)


def kind_of(error) -> str:
  """ "refused", "missing" or "outage"; "" of an error that no bucket made."""
  while error:
    text, package = str(error), type(error).__module__.partition(".")[0]
    code = getattr(error, "code", None)
    if getattr(error, "errno", None) in _LOCAL:
      return ""
    if code in (401, 403) or any(word in text for word in _REFUSED):
      return "refused"
    if "DefaultCredentialsError" in type(error).__name__ or "NoCredentials" in text:
      return "refused"
    if isinstance(error, FileNotFoundError) or code == 404 or "NOT_FOUND" in text:
      return "missing"
    if package in _CLIENTS or isinstance(error, (OSError, TimeoutError)):
      return "outage"
    if any(word in text for word in _OUTAGE):
      return "outage"
    error = error.__cause__ or error.__context__
  return ""


def is_of_client(error) -> bool:
  """Whether the client library of a bucket that is in use raised it."""
  if not _filesystem.cache_info().currsize:
    return False
  package = type(error).__module__.partition(".")[0]
  return package in _CLIENTS or str(error).startswith("Forbidden: ")


def as_user_error(place, doing, error):
  """One line with the remedy; the error itself when no bucket made it."""
  kind = "" if isinstance(error, UserError) else kind_of(error)
  start = f"{place}: {doing}"
  if kind == "refused":
    return UserError(
      f"{start}: no permission ({_text(error)}); let this account read and write the"
      f" bucket, or sign in ({_sign_in(place)})"
    )
  if kind == "missing":
    return UserError(f"{start}: no such bucket or object; make it, or name another")
  if kind == "outage":
    return UserError(
      f"{start}: the bucket does not answer ({_text(error)}); see that it can be"
      " reached, then run the same command again"
    )
  return error


def check(place) -> None:
  """UserError unless the bucket is there and its objects may be listed."""
  place = os.fspath(place)
  bucket = place.split("/")[2]

  def look():
    files = filesystem(place)
    if place.startswith("gs://"):
      files.call("GET", "b/{}/o", bucket, maxResults=1)
    else:
      files.ls(bucket)

  insist(place, f"bucket {bucket} cannot be used", look)


def _sign_in(place):
  return SCHEMES.get(os.fspath(place).partition(":")[0], SCHEMES["gs"])[2]


def _text(error):
  text = " ".join(str(error).split())[:160]
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
