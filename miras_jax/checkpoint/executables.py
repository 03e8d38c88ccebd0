"""Compiled programs kept in a folder, so that a start need not compile.

FOLDER/NAME.json says what the executable beside it was compiled for: the lowered
program, the versions, the devices, the mesh and the compiler's flags. Where anything
differs it is not loaded, the reason is logged, and the program is compiled again. That
it is a pickle inside is why only files of one's own are read: of this user, and written
by nobody else. With several processes each keeps its own, and reads the one without a
process's number where it has none: `miras scale --save-executable` wrote that for all.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import stat

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.logs import log

FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


class Kept:
  """The executables of a folder. Raises UserError where it cannot be made."""

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    try:
      self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
      raise UserError(f"--executable={folder}: {error.strerror}") from error

  def load_or_compile(self, name, lowered, devices):
    """(executable of a `jax.stages.Lowered`, "loaded" or "compiled").

    A new one is kept. devices: those that it runs on, in order. Why one that is there
    is not taken, or one cannot be kept, is in the log.
    """
    wanted = facts(lowered, devices)
    found = self._load(name, lowered, devices, wanted)
    if found is not None:
      return found, "loaded"
    with _without_cache():
      compiled = lowered.compile()
    self._save(name, compiled, wanted)
    return compiled, "compiled"

  def _load(self, name, lowered, devices, wanted):
    there = [p for p in (self._paths(name), self._of_all(name)) if p[1].is_file()]
    if not there:
      return None
    blob, about = there[0]
    try:
      payload = self._checked(blob, about, wanted)
      return serialize_executable.deserialize_and_load(
        payload, lowered.in_tree, lowered.out_tree, execution_devices=list(devices)
      )
    except Exception as error:  # whatever the disk or XLA makes of it
      log.warning("%s is not used: %s; compiling", blob, str(error)[:200])
      return None

  def _save(self, name, compiled, wanted):
    blob, about = self._paths(name)
    try:
      payload, _, _ = serialize_executable.serialize(compiled)
    except Exception as error:  # e.g. a backend without serialisation
      log.warning("%s cannot be kept: %s", name, str(error)[:200])
      return
    about.unlink(missing_ok=True)  # written last: a killed save is none
    _write_bytes(blob, payload)
    found = wanted | {"sha256": hashlib.sha256(payload).hexdigest()}
    workdir.write_atomically(about, json.dumps(found, indent=2, sort_keys=True) + "\n")
    log.info("kept %s, %.1f MB", blob, len(payload) / 1e6)

  def _paths(self, name):
    part = f"-{jax.process_index():05d}" if jax.process_count() > 1 else ""
    return self.folder / f"{name}{part}.bin", self.folder / f"{name}{part}.json"

  def _of_all(self, name):
    return self.folder / f"{name}.bin", self.folder / f"{name}.json"

  def _checked(self, blob, about, wanted):
    """The bytes of an executable. ValueError: why they are not to be loaded."""
    for path in (self.folder, blob, about):
      if not _is_ours(path):
        raise ValueError(f"{path} is not this user's alone, and it can run code")
    found, payload = json.loads(about.read_text()), blob.read_bytes()
    for key, value in wanted.items():
      if found.get(key) != value:
        was = str(found.get(key))
        raise ValueError(f"{key} is {str(value)[:60]}, it was {was[:60]}")
    if found.get("sha256") != hashlib.sha256(payload).hexdigest():
      raise ValueError("it is damaged")
    return payload


@contextlib.contextmanager
def _without_cache():
  """What XLA:CPU has from JAX's cache it serialises without its functions."""

  def use(value):
    jax.config.update("jax_enable_compilation_cache", value)
    compilation_cache.reset_cache()  # it looks at the setting once

  before = jax.config.jax_enable_compilation_cache
  use(False)
  try:
    yield
  finally:
    use(before)


def facts(lowered, devices) -> dict:
  """All that an executable depends on. devices: those that it runs on, in order."""
  client = devices[0].client
  return {
    "program": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
    "jax": jax.__version__,
    "jaxlib": importlib.metadata.version("jaxlib"),
    "libtpu": _version("libtpu"),
    "platform": getattr(client, "platform_version", ""),
    "device_kind": devices[0].device_kind,
    "devices": [device.id for device in devices],
    **{name: os.environ.get(name, "") for name in FLAGS},
  }


def _version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ""


def _is_ours(path):
  """Whether this user owns it and nobody else may write to it."""
  try:
    found = os.lstat(path)
  except OSError:
    return False
  others = stat.S_IWGRP | stat.S_IWOTH
  links = stat.S_ISLNK(found.st_mode)
  return found.st_uid == os.geteuid() and not found.st_mode & others and not links


def _write_bytes(path, data):
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "wb", opener=_private) as file:
    file.write(data)
  os.replace(temporary, path)


def _private(path, flags):
  return os.open(path, flags, 0o600)
