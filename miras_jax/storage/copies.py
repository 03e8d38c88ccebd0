"""Copies between buckets and local folders: data and weights in, results out.

A copy is kept in MIRAS_CACHE (~/.cache/miras_jax) and made again only for objects that
have changed; one that was killed goes on. Processes of one machine share it.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil

import tqdm

from miras_jax.errors import UserError
from miras_jax.storage import reach

THREADS = 8
INDEX = ".copied.jsonl"  # a line for each whole file: name, version
# What says that a folder is whole is copied last.
LAST = (
  "features.json", "dataset_info.json", "miras.json", "index.json", "cache.json",
  "metrics.json", "manifest.json",
)  # fmt: skip
# Names that belong to the machine on which they were made.
_OWN = (".lock", INDEX)


def cache_folder(use, place) -> pathlib.Path:
  """The local folder for a place in a bucket; use: what it is for."""
  default = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "miras_jax")
  root = pathlib.Path(os.environ.get("MIRAS_CACHE", default)).expanduser()
  place = os.fspath(place).rstrip("/")
  name = "".join(c if c.isalnum() else "_" for c in place.partition("://")[2])[-60:]
  return root / use / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def fetch(place):
  """A local copy of a folder or file in a bucket; a local place as it is.

  Returns the path of the copy. Raises UserError: nothing there, no permission, no
  room on the disk, no answer.
  """
  if place:
    reach.check_spelling(place)
  if not place or not reach.is_remote(place):
    return place
  return _fetch(os.fspath(place).rstrip("/"))


@functools.cache
def _fetch(place):
  folder = cache_folder("data", place)
  objects = list_objects(place)
  if not objects:
    reach.check(place)
    raise UserError(f"{place}: the bucket has nothing of that name")
  with _held(folder):
    download(place, objects, folder / "files")
  single = objects.get("")
  return folder / "files" / place.rpartition("/")[2] if single else folder / "files"


def list_objects(place) -> dict[str, dict]:
  """{name below `place`: {"name", "size", "version"}}; of one object its name is ""."""
  files = reach.filesystem(place)
  found = reach.insist(
    place, "cannot be listed", lambda: files.find(place, detail=True)
  )
  objects, root = {}, os.fspath(place).partition("://")[2].rstrip("/")
  for name, info in found.items():
    inside = name.removeprefix(root).lstrip("/")
    if name.endswith("/") or info.get("type") == "directory":
      continue
    if not name.startswith(root) or {"..", "."} & set(inside.split("/")):
      raise UserError(f"{place}: the object {name!r} would leave its folder")
    version = info.get("generation") or info.get("ETag") or info.get("mtime") or ""
    objects[inside] = {"name": name, "size": info["size"], "version": str(version)}
  return objects


def sizes(folder) -> dict[str, int]:
  """{name below a folder, local or in a bucket: bytes} of every file."""
  if reach.is_remote(folder):
    return {name: found["size"] for name, found in list_objects(folder).items()}
  files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
  return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}


def download(place, objects, folder):
  """Makes `folder` the same as the objects; those that are there stay."""
  folder.mkdir(parents=True, exist_ok=True)
  index = folder.parent / INDEX
  here = _read_index(index)
  names = {
    inside: inside or os.path.basename(o["name"]) for inside, o in objects.items()
  }
  for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    if path.relative_to(folder).as_posix() not in names.values():
      path.unlink()
  todo = {
    names[inside]: found
    for inside, found in objects.items()
    if not _is_here(folder / names[inside], found, here.get(names[inside]))
  }
  _check_room(place, folder, sum(found["size"] for found in todo.values()))
  files = reach.filesystem(place)

  def get(name):
    path, found = folder / name, todo[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    reach.insist(
      place,
      f"{name} cannot be read",
      lambda: files.get_file(found["name"], str(half)),
      num_bytes=found["size"],
    )
    if half.stat().st_size != found["size"]:
      raise UserError(f"{place}: {name} changed while it was read; run this again")
    os.replace(half, path)
    return json.dumps([name, found["version"]]) + "\n"

  with open(index, "a", encoding="utf-8") as lines:
    for line in _each(get, todo, f"copying {place}"):
      lines.write(line)
      lines.flush()


def upload(folder, place, names=None):
  """Copies files of a local folder (all, or `names`) into a bucket, LAST ones last."""
  folder = pathlib.Path(folder)
  if names is None:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name not in _OWN)
    names = [p.relative_to(folder).as_posix() for p in found]
  files = reach.filesystem(place)

  def put(name):
    target = f"{os.fspath(place).rstrip('/')}/{name}"
    reach.insist(
      place,
      f"{name} was not written",
      lambda: files.put_file(str(folder / name), target),
      num_bytes=(folder / name).stat().st_size,
    )

  last = [n for marker in LAST for n in names if n == marker]
  for _ in _each(put, [n for n in names if n not in last], f"copying to {place}"):
    pass
  for name in last:
    put(name)


def _each(call, names, title):
  """Results of `call(name)`, several at a time; a bar where there are many."""
  names = list(names)
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    jobs = [pool.submit(call, name) for name in names]
    done = concurrent.futures.as_completed(jobs)
    bar = tqdm.tqdm(done, title, len(names), unit="file", disable=len(names) < 20)
    try:
      for job in bar:
        yield job.result()
    finally:
      pool.shutdown(cancel_futures=True)


def _is_here(path, found, version):
  return (
    version == found["version"]
    and path.is_file()
    and path.stat().st_size == found["size"]
  )


def _read_index(path):
  """{name: version} of what was copied whole; a kill may have left half a line."""
  here = {}
  if path.is_file():
    for line in path.read_text(encoding="utf-8").splitlines():
      with contextlib.suppress(ValueError):
        name, version = json.loads(line)
        here[name] = version
  return here


def _check_room(place, folder, size):
  free = shutil.disk_usage(folder).free
  if size > free:
    raise UserError(
      f"{place}: {size / 1e9:,.1f} GB are to be copied and {folder} has"
      f" {free / 1e9:,.1f} GB free; let MIRAS_CACHE name a folder with more room"
    )


@contextlib.contextmanager
def _held(folder):
  """One process at a time copies into a folder; the others then find it there."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "w", encoding="utf-8")
  except OSError as error:
    raise UserError(
      f"{folder}: {error.strerror}; let MIRAS_CACHE name a folder to copy into"
    ) from None
  with file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


_outputs = {}  # local folder: the place in a bucket that it is copied to


def output(place) -> str:
  """The local folder that stands for an output in a bucket until `publish`."""
  reach.check_spelling(place)
  place = os.fspath(place).rstrip("/")
  path = cache_folder("out", place) / place.rpartition("/")[2]
  reach.check(place)
  path.parent.mkdir(parents=True, exist_ok=True)
  _outputs[str(path)] = place
  return str(path)


def place_of(path) -> str | None:
  """Where in a bucket an output will be; None of a local one."""
  return _outputs.get(os.fspath(path))


def publish() -> None:
  """Copies every output of this command into its bucket, and says where it is."""
  while _outputs:
    path, place = _outputs.popitem()
    path = pathlib.Path(path)
    if path.is_dir():
      upload(path, place)
    elif path.is_file():
      upload(path.parent, place.rpartition("/")[0], [path.name])
    else:
      continue
    shutil.rmtree(path.parent, ignore_errors=True)
    print(f"copied to {place}")
