"""Where the numbers of a run are shown beside metrics.jsonl: TensorBoard, and others by
`config.boards`.

  wandb:PROJECT      Weights & Biases; needs `pip install wandb`
  mlflow:EXPERIMENT  MLflow at MLFLOW_TRACKING_URI; needs `pip install mlflow`
  prometheus         WORKDIR/metrics.prom, gauges in Prometheus' text form, for the
                     textfile collector of its node exporter

A run that is resumed goes on in the same place. What a service does not take is said
once and left out: training goes on.
"""

import contextlib
import hashlib
import importlib
import re

from miras_jax.checkpoint import workdir
from miras_jax.config.boards import parse
from miras_jax.errors import UserError
from miras_jax.logs import log


class Boards:
  """All of them. folder: the run's Workdir; config: its fields, which some boards show.

  Raises UserError where a library is missing or a board cannot be opened.
  """

  def __init__(self, folder, start_step, text, config):
    makers = {"wandb": _Wandb, "mlflow": _Mlflow, "prometheus": _Prometheus}
    self._boards = [_TensorBoard(folder, start_step)]
    for kind, name in parse(text):
      try:
        self._boards.append(makers[kind](folder, name, config))
      except UserError:
        raise
      except Exception as error:  # no account, no server, no network, ...
        why = " ".join(str(error).split())[:300]
        raise UserError(f"boards={kind}:{name} cannot be opened: {why}") from error
    self._told = set()

  def add(self, step, numbers):
    """{name: float} of a step, on each board."""
    for board in self._boards:
      with self._told_once(board):
        board.add(step, numbers)

  def close(self):
    for board in self._boards:
      with self._told_once(board):
        board.close()

  @contextlib.contextmanager
  def _told_once(self, board):
    try:
      yield
    except Exception as error:  # whatever a service or its library makes of it
      if board not in self._told:
        name, text = type(board).__name__.strip("_"), " ".join(str(error).split())
        log.error("ALARM %s: %s; training goes on without it", name, text[:200])
      self._told.add(board)


class _TensorBoard:
  def __init__(self, folder, start_step):
    import tensorboardX

    path = str(folder.local / "tensorboard")
    self._writer = tensorboardX.SummaryWriter(path, purge_step=start_step + 1)

  def add(self, step, numbers):
    for name, value in numbers.items():
      self._writer.add_scalar(name, value, step)

  def close(self):
    self._writer.close()


class _Wandb:
  def __init__(self, folder, name, config):
    wandb = _library("wandb")
    self._run = wandb.init(
      project=name,
      name=folder.path.name,
      id=_id(folder),
      resume="allow",
      dir=str(folder.local),
      config=config,
    )

  def add(self, step, numbers):
    self._run.log(numbers, step=step)

  def close(self):
    self._run.finish()


class _Mlflow:
  def __init__(self, folder, name, config):
    self._mlflow = _library("mlflow")
    self._mlflow.set_experiment(name)
    tag = {"miras_run": _id(folder)}
    found = self._mlflow.search_runs(
      experiment_names=[name],
      filter_string=f"tags.miras_run = '{tag['miras_run']}'",
      output_format="list",
    )
    if found:
      self._mlflow.start_run(run_id=found[0].info.run_id)
      return
    self._mlflow.start_run(run_name=folder.path.name, tags=tag)
    self._mlflow.log_dict(config, "config.json")

  def add(self, step, numbers):
    plain = {re.sub(r"[^\w./ -]", "_", name): x for name, x in numbers.items()}
    self._mlflow.log_metrics(plain, step=step)

  def close(self):
    self._mlflow.end_run()


class _Prometheus:
  def __init__(self, folder, name, config):
    self._file, self._run = folder.local / "metrics.prom", folder.path.name

  def add(self, step, numbers):
    run = re.sub(r'[\\"\n]', "_", self._run)
    lines = []
    for name, value in {"step": step, **numbers}.items():
      name = "miras_" + re.sub(r"\W", "_", name, flags=re.ASCII)
      lines.append(f'# TYPE {name} gauge\n{name}{{run="{run}"}} {value:.10g}\n')
    workdir.write_atomically(self._file, "".join(lines))

  def close(self):
    """The last numbers stay."""


def require(text) -> None:
  """UserError where a library that the boards need is missing: before anything else."""
  for kind, name in parse(text):
    if name:
      _library(kind)


def _library(name):
  try:
    return importlib.import_module(name)
  except ImportError:
    raise UserError(f"boards={name}:... needs it: pip install {name}") from None


def _id(folder):
  """The same for one folder, whoever trains in it."""
  return hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]
