"""Data set -> batches of one host: order, host's rows, examples, batch. Elastic.

The order of examples is a function of the seed alone. Global batch number g is examples
g*B .. g*B+B-1 of it and host h of H has rows h*B/H .. (h+1)*B/H-1, so that any number
of hosts and threads sees the same global batches, and the state is how many examples
have been handed out.
"""

import hashlib
import json
import sys

import grain
import numpy as np

from input_pipeline.examples import Examples
from input_pipeline.mixture import Mixture
from input_pipeline.source import Draw, Source
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
    state: what `get_state` of a pipeline on the same data and seed gave.
    report: called with one line for each defective record; default: logging.
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
    ),
    order=_Order(dataset, seed=seed, shuffle=shuffle, repeat=repeat),
    batch_size=batch_size,
    host=(host_index, host_count),
    num_threads=num_threads,
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

  def __init__(self, *, examples, order, batch_size, host, num_threads):
    self.examples = examples
    self.batch_size = batch_size
    self.zero_weight = 0
    self.needs_sound = False
    self._any_sound, self._passed = False, 0
    self._order = order
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
    return {
      "next_index": self._next_index,
      "order": self._order.fingerprint,
      "files": self._files,
    }

  def set_state(self, state):
    """Continues where `get_state` was taken; UserError when the data differ."""
    if state["order"] != self._order.fingerprint:
      raise UserError(
        "the checkpoint was made with another data set, seed or shuffle setting "
        f"(order {state['order']}, here {self._order.fingerprint}); restore those or "
        "start in a new workdir"
      )
    files = state.get("files")  # states of an earlier version have none
    if files is not None and self._files is not None and files != self._files:
      raise UserError(
        "photographs or masks were added, removed or changed since the checkpoint was"
        " made; put them back as they were, or start in a new workdir"
      )
    self.close()
    self._next_index = int(state["next_index"])

  def close(self):
    """Stops the threads; the next batch starts them again."""
    if self._iterator is not None:
      self._iterator.close()
    self._iterator = None

  def _open(self):
    rows = _HostRows(self._order, self._next_index, self.batch_size, *self._host)
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


class _Order:
  """Random access to the order: place -> record, for ever or once (then -1)."""

  def __init__(self, dataset, *, seed, shuffle, repeat):
    sizes, weights = [len(dataset)], [1.0]
    if isinstance(dataset, Mixture):
      sizes, weights = [len(s) for s in dataset.sources], dataset.weights
    self._repeat = repeat
    parts = []
    for k, size in enumerate(sizes):
      part_seed = seed + 7919 * k if shuffle else None
      first = sum(sizes[:k])
      parts.append(_Part(size, first=first, seed=part_seed, repeat=repeat))
    if len(parts) == 1:
      self._places = parts[0]
    elif repeat:
      self._places = grain.MapDataset.mix(
        [grain.MapDataset.source(part) for part in parts], weights=weights
      )
    else:  # one pass has no proportions: every record once
      self._places = [record for part in parts for record in part]
    settings = [dataset.fingerprint(), seed if shuffle else None, repeat]
    text = json.dumps(settings, sort_keys=True)
    self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

  def __len__(self):
    return len(self._places)

  def __getitem__(self, place):
    if not self._repeat and place >= len(self._places):
      return -1
    return self._places[place]


class _Part:
  """The order of one source: record numbers from `first` on, shuffled every epoch."""

  def __init__(self, size, *, first, seed, repeat):
    self._size = size
    self._first = first
    self._seed = seed
    self._repeat = repeat
    self._epochs = {}  # two at most; replaced, never changed, because of threads

  def __len__(self):
    return sys.maxsize if self._repeat else self._size

  def __getitem__(self, place):
    if not 0 <= place < len(self):
      raise IndexError(place)
    epoch, i = divmod(place, self._size)
    if self._seed is None:
      return Draw(self._first + i, epoch)
    order = self._epochs.get(epoch)
    if order is None:
      order = shuffled(self._size, seed=self._seed, epoch=epoch)
      beside = {e: o for e, o in self._epochs.items() if abs(e - epoch) == 1}
      self._epochs = beside | {epoch: order}
    return Draw(self._first + int(order[i]), epoch)


def shuffled(size, *, seed, epoch):
  """A permutation of range(size) that depends on nothing but its arguments.

  Sorts by SplitMix64 of the index (Steele et al. 2014), so it is the same with every
  version of numpy, which random generators do not promise.
  """
  start = _mix64(_mix64(np.array([seed % 2**64], np.uint64)) ^ np.uint64(epoch))
  return np.argsort(_mix64(np.arange(size, dtype=np.uint64) ^ start))


def _mix64(x):
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class _HostRows:
  """The records one host reads, from place `start` of the order on."""

  def __init__(self, order, start, batch_size, host_index, host_count):
    self._order = order
    self._start = start
    self._batch_size = batch_size
    self._host_batch = batch_size // host_count
    self._first = host_index * self._host_batch

  def __len__(self):
    left = max(0, len(self._order) - self._start)
    batches = min(-(-left // self._batch_size), sys.maxsize // self._batch_size)
    return batches * self._host_batch

  def __getitem__(self, i):
    batch, row = divmod(i, self._host_batch)
    return self._order[self._start + batch * self._batch_size + self._first + row]
