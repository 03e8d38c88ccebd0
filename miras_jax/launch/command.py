"""Writes what starts a training run on a cluster, and runs nothing.

  miras launch gke --print --topology=v5e:16x16x2 --image=IMAGE --queue=research \\
      --config=configs/miras_7b_stage2.py --workdir=gs://BUCKET/runs/stage2 \\
      --config.init_from=/mnt/data/start --config.data.dir=/mnt/data/prist \\
      --volume=data:/mnt/data >stage2.yaml
  miras launch xpk --topology=v6e-256 --cluster=NAME --image=IMAGE ...
  miras launch queued --topology=v5p:4x4x4 --zone=ZONE --image=IMAGE ... --out=ask.sh
  miras launch slurm --topology=h100:8x4 --time=24:00:00 --restarts=6 ...
  miras launch sky --topology=h100:8x2 --spot ...

gke      a JobSet for TPU slices or GPU nodes; --kueue: its queue, too
xpk      the command `xpk workload create`
queued   a script that asks for TPU slices, whose VMs then train
slurm    a batch script for GPU nodes, on storage that they share
sky      a SkyPilot task: one TPU slice, or GPU nodes

Before anything is written, slices, VMs, mesh and batch are checked against each other,
and memory as `miras scale --estimate` does; a run that does not fit is told what would.

--topology    v5e:4x4, v5p:4x4x4x2 (two slices), v5litepod-16, h100:8x4 (4 nodes of 8)
--config, --config.a.b=VALUE, --workdir     as `miras train` takes them. A config file
              of your own has to be at the same path in the image
--out=FILE    written there; --print, or neither: on standard output
--image       a container with miras in it; launch/Dockerfile makes one
--volume=NAME:/PATH     a disk of the cluster, and where the run sees it; several
--name        of the job; default: the config's
--restarts    how often it may start again (gke, xpk, queued 100; sky 3; slurm 0)
--grace       seconds from SIGTERM to SIGKILL, in which the run saves

Which to take, and how restarts work: docs/launch.md
"""

import argparse
import pathlib
import sys

from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.launch import fit, gke, job, place, queued, quote, sky, slurm, xpk
from miras_jax.options import Parser, nearest

GIB = 2**30
WRITERS = {"gke": gke, "xpk": xpk, "queued": queued, "slurm": slurm, "sky": sky}
RESTARTS = {"gke": 100, "xpk": 100, "queued": 100, "slurm": 0, "sky": 3}
MOST_RESTARTS = 1000
# Options that not every launcher has: (help, the launchers, what it may be).
TOKEN, FOLDER, FLAG = r"[\w./:@-]+", "", None
NAME, LABEL = quote.NAME, quote.LABEL  # of Kubernetes
OPTIONS = {
  "image": ("container image", "gke xpk queued", TOKEN),
  "queue": ("Kueue's LocalQueue", "gke", NAME),
  "kueue": ("writes that queue, with quota for this run", "gke", FLAG),
  "namespace": ("of Kubernetes", "gke", NAME),
  "service_account": ("that the machines act as", "gke queued", TOKEN),
  "spot": ("machines that may be taken away", "gke queued sky", FLAG),
  "reservation": ("name of a reservation", "gke", LABEL),
  "reserved": ("machines of a reservation", "queued", FLAG),
  "cluster": ("name of the cluster", "xpk", TOKEN),
  "project": ("of Google Cloud", "xpk queued", TOKEN),
  "zone": ("of Google Cloud", "xpk queued", TOKEN),
  "priority": ("xpk's: low, medium, high, ...", "xpk", NAME),
  "runtime": ("image of the TPU VMs", "queued", TOKEN),
  "partition": ("of Slurm", "slurm", r"[\w.,-]+"),
  "account": ("of Slurm", "slurm", r"[\w.-]+"),
  "time": ("limit of a Slurm job, e.g. 24:00:00", "slurm", quote.TIME),
  "venv": ("folder of the Python environment with miras in it", "slurm", FOLDER),
  "infra": ("where SkyPilot looks, e.g. gcp/us-central1", "sky", r"[\w./*-]+"),
}


def main(argv) -> int:
  """`miras launch KIND ...`; see the module's head."""
  argv, fields = config_file.split_fields(argv)
  options = _parser().parse_args(argv)
  if options.kind not in WRITERS:
    hint = nearest(options.kind, WRITERS)
    raise UserError(f"miras launch: no {options.kind!r}{hint}")
  made = _job(options, fields)
  text = WRITERS[options.kind].write(made)
  print(made.summary, *made.notes, sep="\n", file=sys.stderr)
  if options.out:
    _write(pathlib.Path(options.out), text)
  else:
    print(text, end="")
  return 0


def _write(path, text):
  if path.is_dir():
    raise UserError(f"--out={path} is a folder; name a file")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")
  print(path)


def _job(options, fields):
  """The Job that options describe, checked. Raises UserError."""
  kind = options.kind
  own = _own_options(options)
  for name in ("topology", "config", "workdir"):
    if not getattr(options, name):
      raise UserError(f"miras launch {kind}: --{name}=... is missing")
  where = place.find(options.topology)
  config = config_file.read(options.config, fields)
  volumes = job.parse_volumes(options.volume or ())
  if volumes and kind in ("queued", "slurm"):
    raise UserError(f"--volume is not for {kind}: its machines have their own mounts")
  job.check_workdir(kind, options.workdir, volumes)
  processes = 1 if kind == "slurm" else where.chips_per_vm * where.chip.devices
  entry, added = fit.check(config, where, devices_per_process=processes)
  stopped = _stopped(kind, config, fields)
  fields = [*fields, *added, *_restart_fields(fields, kind, where, config, stopped)]
  train = job.train_words(options.config, options.workdir, fields)
  for word in train:
    quote.check_text("miras launch", word)
  config_name = options.config.partition(":")[0]
  default_name = quote.name_from(pathlib.PurePath(config_name).stem)
  return job.Job(
    name=quote.check_name("--name", options.name or default_name),
    place=where,
    train=train,
    summary=_summary(entry, where),
    notes=job.notes(kind, options.config, config, volumes),
    restarts=_whole("restarts", options.restarts, RESTARTS[kind], MOST_RESTARTS),
    stopped=stopped,
    grace_s=_whole("grace", options.grace, job.Job.grace_s, 3600, least=1),
    image=own.pop("image", ""),
    volumes=volumes,
    options=own,
  )  # fmt: skip


def _own_options(options):
  """{option: value} of those given that this launcher has; the others are refused."""
  found = {}
  for name, (_, kinds, pattern) in OPTIONS.items():
    value = getattr(options, name)
    if not value:
      continue
    if options.kind not in kinds.split():
      raise UserError(f"--{name} is not for {options.kind}, but for {kinds}")
    if pattern in (NAME, LABEL):
      quote.check_label(f"--{name}", value, pattern)
    elif pattern:
      quote.check_token(f"--{name}", value, pattern)
    elif pattern == FOLDER:
      quote.check_text(f"--{name}", value)
    found[name] = value
  if options.kind == "gke" and (account := options.service_account):
    quote.check_label("--service_account", account)  # of Kubernetes, no e-mail address
  return found


def _stopped(kind, config, fields):
  """The status of a run that saved and stopped. UserError for one that was given and
  by which the launcher would take it for finished, or in Slurm for failed."""
  stopped = 0 if kind == "slurm" else config.stopped_exit_code or job.STOPPED
  if "stopped_exit_code" in dict(fields) and config.stopped_exit_code != stopped:
    takes = "failed" if kind == "slurm" else "finished"
    raise UserError(
      f"--config.stopped_exit_code={config.stopped_exit_code}: {kind} would take a run"
      f" that only stopped for {takes}; leave it out, or set {stopped}"
    )
  return stopped


def _restart_fields(fields, kind, where, config, stopped):
  """Fields that make the run end and begin as the launcher wants it."""
  given = {name for name, _ in fields}
  wanted = []
  if stopped or config.stopped_exit_code:
    wanted.append(("stopped_exit_code", stopped))
  if where.slices * where.vms_per_slice > 1 and kind != "slurm":
    wanted.append(("distributed.join_s", job.JOIN_S))
  return [(name, value) for name, value in wanted if name not in given]


def _summary(entry, where):
  """Two lines: the machines, and how the run lies on them. Nothing of the user's."""
  mesh = " ".join(f"{n}={s}" for n, s in entry["mesh"].items() if s > 1)
  takes, has = (entry[n] / GIB for n in ("hbm_bytes", "hbm_capacity"))
  return (
    f"{where.name}: {where}, {place.count(where.devices, 'device')}\n"
    f"{entry['model']}, mesh {mesh or 'of one device'}, {entry['batch_size']} rows a"
    f" step, accumulation {entry['accumulation']}: about {takes:.1f} of {has:.1f} GiB"
  )


def _whole(name, text, default, most, least=0):
  if text is None:
    return default
  is_number = text.isascii() and text.isdigit() and len(text) < 6
  if not is_number or not least <= int(text) <= most:
    start = f" from {least}" if least else ""
    raise UserError(f"--{name}={text}: want a whole number{start} up to {most}")
  return int(text)


def _parser():
  parser = Parser(
    prog="miras launch",
    usage=(
      f"miras launch {{{','.join(WRITERS)}}} --topology=NAME --config=FILE[:options]"
      " --workdir=DIR [--config.a.b=v ...]"
    ),
    description=__doc__,
  )
  parser.add_argument("kind", help=argparse.SUPPRESS)
  for name in ("topology", "config", "workdir", "name", "restarts", "grace"):
    parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
  parser.add_argument("--volume", action="append", help=argparse.SUPPRESS)
  parser.add_path("--out", help=argparse.SUPPRESS)
  parser.add_argument("--print", action="store_true", help=argparse.SUPPRESS)
  for name, (text, kinds, pattern) in OPTIONS.items():
    kind = {"action": "store_true"} if pattern is FLAG else {}
    parser.add_argument(f"--{name}", help=f"{text} ({kinds})", **kind)
  return parser
