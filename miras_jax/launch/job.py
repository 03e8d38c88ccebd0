"""One run as the launchers get it: what to run, where, and under which name."""

import dataclasses
import pathlib
import re

from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.launch import quote
from miras_jax.launch.place import Place
from miras_jax.storage import mirror, reach

STOPPED = 42  # exit status of a run that saved and wants to be started again
JOIN_S = 1800  # pods of one job start when their images have come
TAKEN = ("/dev", "/dev/shm", "/miras")  # of every pod, and of launch/Dockerfile
PORT = 8476  # where process 0 listens
BUCKET = re.compile("(gs|s3)://[^/]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
  """A disk of the cluster, by its name there, and where the run sees it."""

  name: str
  path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One run for one launcher.

  train: the words of `miras train ...`. summary: two lines about machines and mesh.
  notes: what only the user can know. stopped: the exit status that asks for a restart,
  0: none. grace_s: from SIGTERM to SIGKILL.
  """

  name: str
  place: Place
  train: tuple[str, ...]
  summary: str
  restarts: int
  stopped: int
  grace_s: int = 180
  image: str = ""
  notes: tuple[str, ...] = ()
  volumes: tuple[Volume, ...] = ()
  options: dict = dataclasses.field(default_factory=dict)  # of one launcher alone

  def header(self, *lines) -> str:
    """Comment at the head of what is written."""
    return "".join(f"# {line}\n" for line in (*self.summary.split("\n"), *lines))


def train_words(argument, workdir, fields) -> tuple[str, ...]:
  """`miras train` with fields [(a.b, VALUE)]; a config of the package by its name."""
  name, colon, options = argument.partition(":")
  path = config_file.find(name)
  if is_of_package(path):
    name = f"configs/{path.name}"
  words = [f"--config={name}{colon}{options}", f"--workdir={workdir}"]
  return ("miras", "train", *words, *(f"--config.{n}={v}" for n, v in fields))


def is_of_package(path: pathlib.Path) -> bool:
  return path.resolve().parent == config_file.installed_dir().resolve()


def parse_volume(text) -> Volume:
  """ "runs:/mnt/runs" -> Volume."""
  name, _, path = text.partition(":")
  parts = path.rstrip("/").split("/")[1:]
  if not re.fullmatch(r"/[^:]+", path) or {"", ".", ".."} & set(parts) or not parts:
    raise UserError(f"--volume={text}: want NAME:/PATH, e.g. runs:/mnt/runs")
  quote.check_label(f"--volume={text}: NAME", name)
  return Volume(name=name, path=quote.check_text("--volume", path.rstrip("/")))


def parse_volumes(texts) -> tuple[Volume, ...]:
  """The Volume of each. UserError where two would be in one place."""
  found = tuple(map(parse_volume, texts))
  paths = [volume.path for volume in found]
  for path in paths:
    if path in TAKEN or paths.count(path) > 1:
      raise UserError(f"--volume=NAME:{path}: {path} is taken; take another path")
  return found


def check_workdir(kind, workdir, volumes) -> None:
  """UserError unless a run that starts again finds its workdir there."""
  reach.check_spelling(workdir)
  mirror.check_place(workdir)
  if BUCKET.match(workdir) or _is_on(workdir, volumes):
    return
  if "://" in workdir:
    raise UserError(f"--workdir={workdir}: want gs://BUCKET/PATH, or a folder")
  if kind == "slurm":
    return
  remedy = "a bucket, --workdir=gs://BUCKET/RUN"
  if kind != "queued":
    remedy += ", or a disk of the cluster, --volume=NAME:/PATH, and a --workdir on it"
  raise UserError(
    f"--workdir={workdir} would be on a machine's own disk, gone with it: take {remedy}"
  )


def notes(kind, argument, config, volumes) -> tuple[str, ...]:
  """A line about each file that the run reads and that may not be there for it."""
  if kind == "slurm":  # its nodes share storage
    return ()
  named = _paths(config)
  path = config_file.find(argument.partition(":")[0])
  if not is_of_package(path):
    named["config"] = str(path)
  place = "on the machines" if kind == "sky" else "in the image"
  return tuple(
    f"note: {name}={path} is in no bucket and on no --volume; it has to be {place}"
    for name, path in named.items()
    if path and not BUCKET.match(path) and not _is_on(path, volumes)
  )


def _paths(config):
  """{option: path} of what a run reads."""
  named = {"data.dir": config.data.dir, "data.cache": config.data.cache}
  named |= {"init_from": config.init_from, "compile_cache": config.compile_cache}
  named |= {"data.images_dir": config.data.images_dir}
  named |= {"data.masks_dir": config.data.masks_dir}
  return named | {f"sources.{name}": place for name, place in config.sources.items()}


def _is_on(path, volumes):
  """Whether a path stays below one of the volumes."""
  pure = pathlib.PurePosixPath(path)
  return ".." not in pure.parts and any(pure.is_relative_to(v.path) for v in volumes)
