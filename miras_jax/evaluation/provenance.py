"""Where a result comes from: date, commit, versions, device, seed."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess

import jax

_PACKAGES = ("miras_jax", "jax", "jaxlib", "flax", "numpy")
_FOLDER = pathlib.Path(__file__).resolve().parents[1]
_WAIT = 10  # seconds for git


def collect(seed) -> dict:
  """{"date", "commit", "versions", "device", "seed"}; what is unknown is None."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    "date": now.isoformat(timespec="seconds"),
    "commit": commit(),
    "versions": {"python": platform.python_version()} | _versions(),
    "device": device(),
    "seed": seed,
  }


def device() -> str:
  """Such as `1 cpu` or `8 TPU v5e, 2 processes`."""
  devices, processes = jax.devices(), jax.process_count()
  more = f", {processes} processes" if processes > 1 else ""
  return f"{len(devices)} {devices[0].device_kind}{more}"


def commit(folder=_FOLDER) -> str | None:
  """The commit of a checkout of this code, `-dirty` where files differ from it."""
  # An installed copy may lie inside somebody else's repository.
  if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
    return None
  return _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(folder, *words):
  """What git says, or None where it is absent or fails."""
  command = ["git", "-C", str(folder), *words]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT)
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() if done.returncode == 0 else None


def _versions():
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found
