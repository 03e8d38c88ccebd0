"""Writes a folder of safetensors one tensor at a time; nothing half-written is left.

A `Target` says what a tensor is and makes its bytes only when their turn comes, in
blocks of rows. Files grow from front to back, so a run that was killed goes on behind
the last whole tensor, after the bytes before it were compared with their SHA-256.

DST/<files>               appear by one rename, when all is written
DST/manifest.json         size and SHA-256 of every file but card.md
.DST.partial/             until then: the same files and journal.jsonl
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import tqdm

from input_pipeline.regular_file import SMALL_JSON, read_bytes
from miras_jax.checkpoint import lock, workdir
from miras_jax.convert.files.safetensors_file import header_bytes
from miras_jax.convert.files.tensors import READ_BYTES, TensorInfo
from miras_jax.errors import UserError

BLOCK_BYTES = 32 << 20
SHARD_BYTES = 5_000_000_000  # the limit of a file, as Hugging Face splits its models
MANIFEST, JOURNAL, IDENTITY = "manifest.json", "journal.jsonl", "identity"
CARD = "card.md"  # people fill it in: no part of the manifest
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Target(NamedTuple):
  """A tensor to write. `arrays()` yields arrays that, one behind the other in row-major
  order, are its values."""

  name: str
  shape: tuple
  dtype: Any
  arrays: Callable

  @property
  def info(self):
    return TensorInfo(tuple(self.shape), np.dtype(self.dtype))


class Shard(NamedTuple):
  """One file: its name, header and targets with the byte at which each begins."""

  name: str
  head: bytes
  targets: list
  begins: list
  size: int


def plan_shards(targets, *, folder="", stem="model", shard_bytes=SHARD_BYTES):
  """[Shard] in the given order, of at most `shard_bytes` or one larger tensor."""
  groups, size = [[]], 0
  for target in targets:
    if groups[-1] and size + target.info.nbytes > shard_bytes:
      groups.append([])
      size = 0
    groups[-1].append(target)
    size += target.info.nbytes
  return [
    _shard(folder + _file_name(stem, i, len(groups)), group)
    for i, group in enumerate(groups)
  ]


def _file_name(stem, i, count):
  if count == 1:
    return f"{stem}.safetensors"
  return f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"


def _shard(name, targets):
  infos = {t.name: t.info for t in targets}
  head, begins, size = header_bytes(infos, {"format": "pt"})
  return Shard(name, head, targets, [begins[t.name] for t in targets], size)


def index_text(shards):
  """`model.safetensors.index.json` of several files."""
  where = {t.name: pathlib.PurePath(s.name).name for s in shards for t in s.targets}
  total = sum(t.info.nbytes for s in shards for t in s.targets)
  body = {"metadata": {"total_size": total}, "weight_map": where}
  return json.dumps(body, indent=2) + "\n"


def write_folder(dst, shards, texts, *, identity, note=None, copies=(), progress=True):
  """Writes shards and small files to the new folder `dst`; -> the manifest.

  texts     {relative path: text or bytes}
  identity  JSON-ready: what the content depends on; another one starts afresh
  note      JSON-ready, put into the manifest
  copies    functions that write into a folder (a tokenizer), called with its path
  Raises UserError when `dst` holds something, when the disk is full, and whatever a
  target raises: what was written then waits for the next run.
  """
  dst = pathlib.Path(dst)
  with hold_partial(dst) as partial:
    try:
      _open_partial(partial, _digest_of(identity, shards))
      files = _write_shards(partial, shards, progress=progress)
      _write_small(partial, texts, copies)
      return _finish(partial, dst, files, note or {})
    except UserError:  # a damaged source: going on would meet it again
      shutil.rmtree(partial)
      raise
    except OSError as error:
      why = error.strerror or error
      raise UserError(
        f"{partial}: {why}; run the same command again to go on"
      ) from error


@contextlib.contextmanager
def hold_partial(dst):
  """The folder in which `dst` grows, for this process alone; `appear` ends it.

  Raises UserError when `dst` holds something, or who else is at work there.
  """
  check_free(dst)
  partial = partial_folder(dst)
  try:
    partial.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{partial}: {error.strerror or error}") from None
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(lock.hold(partial, "miras convert"))
    except UserError:
      check_free(dst)  # another one has ended since
      raise
    try:
      check_free(dst)
    except UserError:
      shutil.rmtree(partial, ignore_errors=True)  # made anew by us, or gone
      raise
    yield partial


def appear(partial, dst):
  """Renames what is whole to `dst`, and lets it go."""
  if dst.is_dir():
    dst.rmdir()  # checked to be empty
  partial.rename(dst)
  (dst / lock.NAME).unlink()  # ours until it is gone


def _write_shards(partial, shards, *, progress):
  """{file: its entry of the manifest}."""
  _check_space(partial, shards)
  total = sum(s.size for s in shards)
  with tqdm.tqdm(
    total=total, unit="B", unit_scale=True, disable=not progress, desc="convert"
  ) as bar:
    journal = Journal(partial / JOURNAL)
    return {shard.name: _write_shard(partial, shard, journal, bar) for shard in shards}


def _write_small(partial, texts, copies):
  for name, text in texts.items():
    data = text if isinstance(text, bytes) else text.encode()
    (partial / name).parent.mkdir(parents=True, exist_ok=True)
    (partial / name).write_bytes(data)
  for copy in copies:
    copy(partial)


def _finish(partial, dst, files, note):
  """Manifest, rename."""
  for name in (JOURNAL, IDENTITY):
    (partial / name).unlink(missing_ok=True)
  for path in sorted(p for p in partial.rglob("*") if p.is_file()):
    name = path.relative_to(partial).as_posix()
    if name not in (*files, lock.NAME, CARD):
      files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
  manifest = workdir.seal({"files": files} | note)
  workdir.write_atomically(
    partial / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n"
  )
  appear(partial, dst)
  return manifest


def check_free(dst):
  """UserError unless `dst` does not exist or is an empty folder."""
  if dst.is_dir() and not any(dst.iterdir()):
    return
  if dst.exists():
    raise UserError(f"--dst={dst} exists already; name a new folder")


def partial_folder(dst):
  dst = pathlib.Path(dst).absolute()
  return dst.with_name(f".{dst.name}.partial")


def file_sha256(path):
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def read_manifest(folder):
  """The manifest's body. UserError when it is missing or was changed."""
  path = pathlib.Path(folder) / MANIFEST
  try:
    return workdir.unseal(json.loads(read_bytes(path, SMALL_JSON)))
  except (OSError, ValueError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{path}: cannot be read: {error}; `miras convert --dst=DIR` makes such a folder"
    ) from None


def verify(folder):
  """Reads every file of a written folder; UserError naming the first that changed."""
  for name, entry in read_manifest(folder)["files"].items():
    path = pathlib.Path(folder) / name
    if not path.is_file():
      raise UserError(f"{path}: missing")
    if (found := file_sha256(path)) != entry["sha256"]:
      raise UserError(f"{path}: damaged: SHA-256 {found}, want {entry['sha256']}")


# -- one file -------------------------------------------------------------------------


class Journal:
  """Which tensors are whole: {"file", "end", "sha256" of the file up to there}."""

  def __init__(self, path):
    self._path = path
    self._last = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
      try:
        entry = json.loads(line)
        self._last[entry["file"]] = (int(entry["end"]), str(entry["sha256"]))
      except (ValueError, KeyError, TypeError):
        break  # the line that a killed run did not end

  def last(self, name):
    """(end, sha256) of what is written of a file; (0, "") for nothing."""
    return self._last.get(name, (0, ""))

  def add(self, name, end, sha256):
    entry = {"file": name, "end": end, "sha256": sha256}
    with open(self._path, "a", encoding="utf-8") as f:
      f.write(json.dumps(entry) + "\n")


def _write_shard(partial, shard, journal, bar):
  """Writes a file or the rest of it; -> its entry of the manifest."""
  path = partial / shard.name
  path.parent.mkdir(parents=True, exist_ok=True)
  done, digest = _resume(path, shard, journal)
  with open(path, "r+b" if done else "wb", buffering=0) as file:
    file.truncate(done)
    file.seek(done)
    bar.update(done)
    with _Writer(file, digest, bar) as writer:
      if not done:
        writer.write(np.frombuffer(shard.head, np.uint8))
      for target, begin in zip(shard.targets, shard.begins, strict=True):
        if done and begin + target.info.nbytes <= done:
          continue
        _write_target(writer, target)
        journal.add(shard.name, writer.flush(), digest.hexdigest())
    os.fsync(file.fileno())
  return {"bytes": shard.size, "sha256": digest.hexdigest()}


def _resume(path, shard, journal):
  """(bytes that are written and whole, their running SHA-256)."""
  end, expected = journal.last(shard.name)
  digest = hashlib.sha256()
  if not end or not path.is_file() or path.stat().st_size < end:
    return 0, digest
  with open(path, "rb") as f:
    left = end
    while left:
      chunk = f.read(min(READ_BYTES >> 4, left))
      digest.update(chunk)
      left -= len(chunk)
  if digest.hexdigest() != expected:
    return 0, hashlib.sha256()
  return end, digest


def _write_target(writer, target):
  """All of a tensor, in blocks of rows; ValueError when it is not as announced."""
  left, dtype = target.info.nbytes, np.dtype(target.dtype)
  for array in target.arrays():
    left -= array.nbytes
    if array.dtype != dtype or left < 0:
      raise ValueError(f"{target.name}: {array.dtype}{array.shape}, want {target.info}")
    for block in row_blocks(array):
      writer.write(block)
  if left:
    raise ValueError(f"{target.name}: {left} of {target.info.nbytes} bytes are missing")


class _Writer:
  """Hashes and writes in a thread of its own while the next block is made."""

  def __init__(self, file, digest, bar):
    self._file, self._digest, self._bar = file, digest, bar
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._pending = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._pool.shutdown()

  def write(self, block):
    self.flush()
    self._pending = self._pool.submit(self._write, block)

  def flush(self):
    """Waits for what is under way; -> bytes in the file."""
    if self._pending is not None:
      self._pending.result()
      self._pending = None
    return self._file.tell()

  def _write(self, block):
    data = memoryview(block.reshape(-1).view(np.uint8))
    self._digest.update(data)
    while data:
      count = self._file.write(data)
      self._bar.update(count)
      data = data[count:]


def row_blocks(array):
  """Contiguous arrays of a few rows at a time; the array itself may be any view."""
  if array.nbytes <= BLOCK_BYTES or not array.ndim:
    yield contiguous(array)
    return
  rows = max(1, BLOCK_BYTES * array.shape[0] // array.nbytes)
  for start in range(0, array.shape[0], rows):
    yield contiguous(array[start : start + rows])


def contiguous(view):
  """`np.ascontiguousarray`, ten times as quick for a view of a transposed matrix."""
  unsigned = _UNSIGNED.get(view.dtype.itemsize)
  if view.ndim != 2 or unsigned is None or view.strides[0] != view.dtype.itemsize:
    return np.ascontiguousarray(view)
  if 1 in view.shape:  # OpenCV would take a row for a column
    return np.ascontiguousarray(view)
  return cv2.transpose(view.T.view(unsigned)).view(view.dtype)


# -- the partial folder ---------------------------------------------------------------


def _digest_of(identity, shards):
  layout = [[s.name, s.size, hashlib.sha256(s.head).hexdigest()] for s in shards]
  text = json.dumps([identity, layout], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _open_partial(partial, digest):
  """Keeps what an equal run left, removes what another one left."""
  stamp = partial / IDENTITY
  if not stamp.is_file() or stamp.read_text() != digest:
    empty(partial)
  stamp.write_text(digest)


def empty(partial):
  """Removes all but the lock, which says that this process is at work there."""
  for path in partial.iterdir():
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    elif path.name != lock.NAME:
      path.unlink()


def _check_space(partial, shards):
  written = sum(p.stat().st_size for p in partial.rglob("*") if p.is_file())
  need, free = sum(s.size for s in shards) - written, shutil.disk_usage(partial).free
  if need > free:
    raise UserError(
      f"{partial.parent}: needs {need / 1e9:,.2f} GB and {free / 1e9:,.2f} GB is free"
    )
