"""Data set -> batches of one host: order, host's rows, examples, batch. Elastic.

The order of examples is a function of the seed alone (`order`), and which rows of a
global batch a host has one of host and hosts (`host_rows`). So any number of hosts and
threads sees the same global batches, and the state is how many examples have been
handed out; for a mixture also how many of each source.
"""

import grain
import numpy as np

from input_pipeline.examples import Examples
from input_pipeline.host_rows import Grouping, HostRows
from input_pipeline.order import Order
from input_pipeline.source import Source
from miras_jax.errors import UserError

_PREFETCH_BATCHES = 2


def make_pipeline(
  dataset: Source,
  tokenizer,
  data_cfg,
  *,
  batch_size,
  seed=0,
  shuffle=True,
  repeat=True,
  host_index=0,
  host_count=1,
  num_threads=0,
  cache=False,
  features=None,
  augment=None,
  state=None,
  report=None,
  grouping: Grouping | None = None,
  lean=False,
  slots=None,
) -> "Pipeline":
  """Builds the iterator of host-local Batch dicts.

  Args:
    dataset: a Source; of a Mixture, each source is drawn by its weight.
    data_cfg: examples.DataConfig.
    batch_size: examples in a global batch, over all hosts.
    seed, shuffle: the order; every epoch has its own.
    repeat: for ever; False is one pass whose last batch is filled up with examples of
      zero weight and record -1. An evaluation is shuffle=False, repeat=False.
    num_threads: threads that decode ahead; 0 works in the caller's thread, which is
      quickest once `cache` holds everything.
    cache: keeps prepared examples in memory.
    features: FeatureCache, whose features take the place of pixels.
    augment: augment.Augment, how pictures change each time they are drawn; not with
      `cache` or `features`, which are of pictures as they are.
    state: what `get_state` of a pipeline on the same data and seed gave, or on another
      mixture of sources.
    report: called with one line for each defective record; default: logging.
    grouping: the order of the rows inside each batch; None: as they are drawn.
    lean: leaves out what only masks need of a row without one (`Examples`).
    slots: how earlier masks are drawn (`Examples`).
  """
  if batch_size < 1 or batch_size % host_count:
    raise UserError(
      f"batch_size={batch_size} does not divide among {host_count} hosts; make it a "
      f"multiple of {host_count}"
    )
  if not 0 <= host_index < host_count:
    raise ValueError(f"{host_index=} is not within {host_count=}")
  if not len(dataset):
    raise UserError("the data set holds no record")
  pipeline = Pipeline(
    examples=Examples(
      dataset,
      tokenizer,
      data_cfg,
      cache=cache,
      features=features,
      augment=augment,
      report=report,
      lean=lean,
      slots=slots,
    ),
    order=Order(dataset, seed=seed, shuffle=shuffle, repeat=repeat),
    batch_size=batch_size,
    host=(host_index, host_count),
    num_threads=num_threads,
    grouping=grouping,
  )
  if state is not None:
    pipeline.set_state(state)
  return pipeline


class Pipeline:
  """Iterator over Batch dicts (DESIGN section 3) of numpy arrays, rows of this host.

  problems: defective records met so far by index; `zero_weight` counts how often such
  a record was due, so an epoch later the same one counts again. needs_sound: a whole
  pass that meets none but defective records is a UserError.
  """

  def __init__(self, *, examples, order, batch_size, host, num_threads, grouping=None):
    self.examples = examples
    self.batch_size = batch_size
    self.zero_weight = 0
    self.needs_sound = False
    self._any_sound, self._passed = False, 0
    self._order = order
    self._grouping = grouping
    self._host = host
    self._num_threads = num_threads
    self._next_index = 0
    # Cached features stand for the photographs: these need not be there.
    cached = examples.features is not None
    self._files = None if cached else examples.dataset.files_fingerprint()
    self._iterator = None

  @property
  def problems(self):
    return self.examples.problems

  @property
  def steps_per_epoch(self):
    """Batches that one pass over the data takes, the last one filled up."""
    return -(-len(self.examples) // self.batch_size)

  def __iter__(self):
    return self

  def __next__(self):
    if self._iterator is None:
      self._iterator = iter(self._open())
    batch = next(self._iterator)
    self._next_index += self.batch_size
    self._count_defective(self.records(batch))
    return batch

  def _count_defective(self, records):
    """Counts them; UserError after a whole pass without a sound record."""
    defective = sum(record in self.problems.by_index for record in records)
    self.zero_weight += defective
    self._any_sound = self._any_sound or defective < len(records)
    self._passed += self.batch_size
    whole = self.needs_sound and self._passed >= len(self.examples)
    if self._any_sound or not self.zero_weight or not whole:
      return
    first = next(iter(self.problems.by_index.values()))
    raise UserError(
      f"a whole pass over the data met no sound record, but {self.zero_weight} times a"
      f" defective one, the first: {first}"
    )

  def records(self, batch):
    """Indices in the data set of the records that a batch holds, fillers left out."""
    rows = (int(row) for row in batch["record"] if row >= 0)
    return [record for row in rows for record in self.examples.members(row)]

  def get_state(self):
    """JSON-able; equal on every host, independent of hosts, threads and batch size."""
    place = {"next_index": self._next_index, "files": self._files}
    return place | self._order.get_state()

  def set_state(self, state):
    """Continues where `get_state` was taken; UserError when the data differ.

    Another mixture may go on: each of its sources does so where it was.
    """
    self.close()
    place = self._order.set_state(state, int(state["next_index"]))
    if _changed(state.get("files"), self._files):
      raise UserError(
        "photographs or masks were added, removed or changed since the checkpoint was"
        " made; put them back as they were, or start in a new workdir"
      )
    self._next_index = place

  def close(self):
    """Stops the threads; the next batch starts them again."""
    if self._iterator is not None:
      self._iterator.close()
    self._iterator = None

  def _open(self):
    rows = HostRows(
      self._order, self._next_index, self.batch_size, *self._host, self._grouping
    )
    size = self.batch_size // self._host[1]

    def load(row):
      return self.examples[rows[row]]

    def load_batch(batch):
      return _stack([load(row) for row in range(batch * size, (batch + 1) * size)])

    if not self._num_threads:  # cached examples cost less than a step of grain
      ds = grain.MapDataset.range(len(rows) // size).map(load_batch)
      return ds.to_iter_dataset(grain.ReadOptions(0, 0))
    # differs from grain's ElasticIterator, which batches before it prefetches.
    ahead = max(_PREFETCH_BATCHES * size, self._num_threads)
    ds = grain.MapDataset.range(len(rows)).map(load)
    ds = ds.to_iter_dataset(grain.ReadOptions(self._num_threads, ahead))
    return ds.batch(size, batch_fn=_stack)


def _stack(examples):
  return {k: np.stack([ex[k] for ex in examples]) for k in examples[0]}


def _changed(before, now):
  """Whether two `files_fingerprint` differ, of a mixture in a source that both have.

  None is not known: states of an earlier version have none.
  """
  if isinstance(before, dict) and isinstance(now, dict):
    return any(_changed(before[name], now[name]) for name in before.keys() & now)
  return before is not None and now is not None and before != now
