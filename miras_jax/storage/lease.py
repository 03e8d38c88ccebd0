"""One writer a folder of a bucket: a lease that its holder keeps renewing.

The object FOLDER/.lock says who holds it. Each change of it has the generation that was
read as its condition, so that of two only one succeeds; a server that knows no such
condition is asked again who won. A holder that ended has removed it; one that was
killed is replaced at once on its own machine, elsewhere when its lease has not changed
for as long as it says. One that comes back after that ends before it writes again.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time

from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.storage import reach

NAME = ".lock"
SECONDS = 60.0
SETTLE_S = 0.2  # until a server without conditions is asked who won
CALL_S = 10.0
_held = {}  # place: Lease, of this process


class Changed(Exception):
  """The object is no longer the one that was read."""


class Lost(UserError):
  """Another process has taken the folder over."""


class Object:
  """One small object of a bucket: its bytes, and changes under a condition."""

  def __init__(self, place):
    from google.api_core import exceptions
    from google.cloud import storage

    bucket, _, name = place.removeprefix("gs://").partition("/")
    self._errors = exceptions
    self._bucket, self._name = storage.Client().bucket(bucket), name

  def read(self) -> tuple[bytes | None, int]:
    """(content, generation); (None, 0): there is none."""
    try:
      blob = self._bucket.get_blob(self._name, timeout=CALL_S, retry=None)
      if blob is None:
        return None, 0
      generation = int(blob.generation)  # the download forgets it
      return blob.download_as_bytes(timeout=CALL_S, retry=None), generation
    except self._errors.NotFound:  # it was replaced or removed meanwhile
      return self.read()

  def write(self, data, generation) -> int:
    """Replaces that generation, 0: makes it -> the new one. Raises Changed."""
    blob = self._bucket.blob(self._name)
    condition = {"if_generation_match": generation, "timeout": CALL_S, "retry": None}
    try:
      blob.upload_from_string(data, **condition)
    except self._errors.PreconditionFailed:
      raise Changed from None
    return int(blob.generation)

  def remove(self, generation):
    condition = {"if_generation_match": generation, "timeout": CALL_S, "retry": None}
    try:
      self._bucket.blob(self._name).delete(**condition)
    except (self._errors.PreconditionFailed, self._errors.NotFound):
      raise Changed from None


class Lease:
  """Holds `place` for `command` between `acquire` and `release`.

  end: called in the renewing thread once another process has taken over.
  """

  def __init__(self, place, command, *, make=Object, seconds=SECONDS, end=None):
    self.place, self.seconds = place, seconds
    self._object = make(f"{place}/{NAME}")
    self._token = secrets.token_hex(8)
    self._me = {"command": command, "token": self._token, "seconds": seconds} | _here()
    self._generation = 0
    self._renewed = 0.0
    self._beats = 0
    self._taken_by = ""
    self._end = end or _end_process
    self._stop, self._guard = threading.Event(), threading.Lock()

  def acquire(self):
    """Returns once it holds the place. UserError: another one does, and is alive."""
    seen = since = None
    while True:
      data, generation = self._object.read()
      who = _parse(data)
      waited = generation == seen and time.monotonic() - since >= who["seconds"]
      if data is None or _is_dead(who) or waited:
        with contextlib.suppress(Changed):
          return self._take(generation)
        seen = None
        continue
      if seen is None:
        seen, since = generation, time.monotonic()
        log.info(
          "%s is held by %s; waiting up to %.0f s for a sign of life",
          self.place, describe(who), who["seconds"],
        )  # fmt: skip
      elif generation != seen:
        raise UserError(f"{self.place} is in use by {describe(who)}; wait for its end")
      time.sleep(min(1.0, who["seconds"] / 10))

  def _take(self, generation):
    self._write(generation)
    time.sleep(SETTLE_S)
    data, self._generation = self._object.read()
    if _parse(data).get("token") != self._token:
      raise Changed
    threading.Thread(target=self._keep, daemon=True, name="lease").start()

  def _write(self, generation):
    self._beats += 1
    started = time.monotonic()
    body = json.dumps(self._me | {"beats": self._beats}).encode()
    self._generation = self._object.write(body, generation)
    self._renewed = started

  def _keep(self):
    while not self._stop.wait(self.seconds / 4):
      try:
        self.renew()
      except Lost as lost:
        if not self._stop.is_set():
          self._end(lost)
        return
      except Exception as error:  # the bucket is away: `check` says so before a write
        log.warning("%s: the lease was not renewed: %s", self.place, error)

  def renew(self):
    """Says that the holder lives. Raises Lost, or whatever the bucket makes of it."""
    with self._guard:
      data, generation = self._object.read()
      who = _parse(data)
      if data is not None and who.get("token") != self._token:
        raise Lost(self._lost(who))
      try:
        self._write(generation)
      except Changed:
        who = _parse(self._object.read()[0])
        if who.get("token") != self._token:
          raise Lost(self._lost(who)) from None

  def check(self):
    """Before a write: Lost when another holds the place; renews an old lease."""
    if time.monotonic() - self._renewed > self.seconds / 2:
      reach.insist(self.place, "the lease was not renewed", self.renew)

  def release(self):
    """Lets the place go; a bucket that is away keeps a lease that ends by itself."""
    self._stop.set()
    if reach.given_up():
      return
    with self._guard, contextlib.suppress(Exception):
      data, generation = self._object.read()
      if _parse(data).get("token") == self._token:
        self._object.remove(generation)

  def _lost(self, who):
    return (
      f"{self.place} was taken over by {describe(who)}, since this process did not"
      " renew its lease in time; it ends without writing more"
    )


@contextlib.contextmanager
def hold(place, command):
  """Holds a folder of a bucket while the block runs. UserError, as `Lease.acquire`."""
  place = os.fspath(place).rstrip("/")
  reach.check(place)
  lease = Lease(place, command)
  _acquire(lease)
  _held[place] = lease
  try:
    yield lease
  finally:
    del _held[place]
    lease.release()


def _acquire(lease):
  try:
    lease.acquire()
  except Exception as error:
    problem = reach.as_user_error(lease.place, "cannot be written to", error)
    if problem is error:
      raise
    raise problem from error


def check(place) -> None:
  """Before a write into a place that this process holds; nothing elsewhere."""
  if lease := _held.get(os.fspath(place).rstrip("/")):
    lease.check()


def holder(place) -> str:
  """Who holds a place now, as one phrase; "" when nobody does."""
  data, generation = Object(f"{os.fspath(place)}/{NAME}").read()
  who = _parse(data)
  if data is None or _is_dead(who):
    return ""
  end = time.monotonic() + who["seconds"]
  while time.monotonic() < end:
    time.sleep(min(1.0, who["seconds"] / 10))
    if Object(f"{os.fspath(place)}/{NAME}").read()[1] != generation:
      return describe(who)
  return ""


def describe(who) -> str:
  """ "`miras train` (process 7 on host-0, since ...)"."""
  try:
    return (
      f"`{who['command']}` (process {who['pid']} on {who['host']}, since"
      f" {who['since']})"
    )
  except KeyError:
    return "another process"


def _here():
  """Who this process is, and what tells on this machine that it has ended."""
  return {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    "started": _started(os.getpid()),
    "machine": _machine(),
  }


def _machine():
  """The same for processes that see each other's numbers, and only for these."""
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      return file.read().strip() + os.readlink("/proc/self/ns/pid")
  except OSError:
    return ""


def _started(pid):
  """When a process began, in ticks; "" of one that is gone (or a zombie)."""
  try:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
      fields = file.read().rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
  except (OSError, IndexError):
    return ""


def _is_dead(who):
  """Whether the holder is known to have ended, which only its own machine can tell."""
  own = who.get("machine") and who["machine"] == _machine()
  return bool(own) and _started(who.get("pid")) != who.get("started")


def _parse(data):
  """What a lease says; of one that is damaged only how long to wait."""
  try:
    found = json.loads(data)
    seconds = float(found["seconds"])
    if seconds != seconds:  # NaN, which no wait would ever reach
      raise ValueError("no number of seconds")
    return found | {"seconds": min(max(seconds, 0.1), 10 * SECONDS)}
  except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
    return {"seconds": SECONDS}


def _end_process(lost):
  """The main thread may be anywhere, in a write too: it does not go on."""
  print(f"error: {lost}", file=sys.stderr, flush=True)
  os._exit(1)
