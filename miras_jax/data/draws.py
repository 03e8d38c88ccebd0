"""The first examples that a run draws: the mixture as it comes out, and histograms.

Drawn in the run's own order. Tokens are those of the text alone, image slots left out.
"""

import numpy as np
import tqdm

from input_pipeline import mask_ops
from input_pipeline.conversation import (
  ConversationError,
  encode_conversation,
  plain_texts,
)
from input_pipeline.mixture import Mixture, mix
from input_pipeline.order import Order
from input_pipeline.records import RecordError
from input_pipeline.source import Source
from input_pipeline.tokenizer import load_tokenizer, train_bpe
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import DataChoice
from miras_jax.errors import UserError

# Edges of areas, as fractions of the picture.
AREAS = (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TOKEN_BINS = 12
MOST_BINS = 20  # of whole numbers
LISTS = ("turns", "tokens", "areas", "masks")
TITLES = {
  "tokens": "tokens of a conversation",
  "turns": "questions of a conversation",
  "areas": "area of a mask, fraction of the picture",
  "masks": "masks a picture",
}


def collect(source: Source, config: RunConfig, count: int) -> dict:
  """Statistics of the first `count` examples that are drawn, ready for JSON.

  Of one data set at most all of it, each record once.
  """
  mixture = source if isinstance(source, Mixture) else mix([source], [1], [source.file])
  rows, masks = _look(mixture, config, count)
  drawn = sum(row["drawn"] for row in rows)
  total = sum(mixture.weights)
  return {
    "draws": drawn,
    "sources": {
      name: {"entry": mixture.entries[k], "wanted": mixture.weights[k] / total}
      | _summary(rows[k], len(mixture.sources[k]), drawn)
      for k, name in enumerate(mixture.names)
    },
    "histograms": {
      "tokens": _histogram(_all(rows, "tokens"), most=TOKEN_BINS),
      "turns": _histogram(_all(rows, "turns")),
      "areas": _histogram(_all(rows, "areas"), AREAS),
      "masks": _histogram(masks),
    },
    "pack": config.data.pack,
  }


def _look(mixture, config, count):
  """(numbers of each source, masks of each picture) of the first `count` draws."""
  repeat = len(mixture.sources) > 1
  order = Order(mixture, seed=config.seed, shuffle=True, repeat=repeat)
  rows = [{"drawn": 0, "defective": 0} | {n: [] for n in LISTS} for _ in mixture.names]
  pictures, kept = {}, []
  places = range(min(count, len(order)))
  for place in tqdm.tqdm(places, desc="reading", unit="record", leave=False):
    example = order[place]
    row = rows[mixture.locate(example)[0]]
    row["drawn"] += 1
    record = mixture.load(example)
    if isinstance(record, RecordError):
      row["defective"] += 1
      continue
    _add(row, record)
    kept.append((row, record.turns, [name for name, _ in record.targets]))
    if record.image:
      of_picture = pictures.setdefault(record.image_id or record.id, {})
      of_picture[record.id] = len(record.targets)
  _count_tokens(kept, config.data)
  return rows, [sum(numbers.values()) for numbers in pictures.values()]


def _add(row, record):
  row["turns"].append(sum(role == "user" for role, _ in record.turns))
  row["masks"].append(len(record.targets))
  for _, rle in record.targets:
    row["areas"].append(mask_ops.rle_area(rle) / max(1, int(np.prod(rle["size"]))))


def _count_tokens(kept, data: DataChoice):
  """Adds the tokens of each conversation that was kept to the row of its source."""
  if not kept:
    return
  if data.tokenizer == "bpe":
    texts = (t for _, turns, _ in kept for t in plain_texts(turns))
    tokenizer = train_bpe(texts, data.vocab_size)
  else:
    tokenizer = load_tokenizer(data.tokenizer)
  options = {"template": data.template, "system": data.system or None}
  for numbers, turns, names in kept:
    try:
      row = encode_conversation(
        turns, tokenizer, names=names, name_targets=data.name_targets, **options
      )
    except ConversationError:
      numbers["defective"] += 1
      continue
    numbers["tokens"].append(len(row.tokens_L))


def _all(rows, name):
  return [value for row in rows for value in row[name]]


def _summary(row, records, drawn):
  return {
    "records": records,
    "drawn": row["drawn"],
    "share": round(row["drawn"] / max(drawn, 1), 4),
    "passes": round(row["drawn"] / records, 4),
    "defective": row["defective"],
    "tokens": _mean(row["tokens"]),
    "turns": _mean(row["turns"]),
    "masks": _mean(row["masks"]),
    "area": _mean(row["areas"]),
  }


def _mean(values):
  return round(float(np.mean(values)), 4) if values else None


def _histogram(values, edges=None, most=MOST_BINS):
  """{"edges", "counts"}; without edges, bins of whole numbers, at most `most`."""
  if not values:
    return {"edges": [], "counts": []}
  if edges is None:
    step = max(1, -(-(max(values) + 1 - min(values)) // most))
    edges = np.arange(min(values), max(values) + 1 + step, step)
  counts, edges = np.histogram(values, edges)
  return {"edges": edges.tolist(), "counts": counts.tolist()}


def text(found: dict) -> str:
  """The statistics as tables."""
  columns = list(next(iter(found["sources"].values())))
  rows = [["", *columns]]
  for name, row in found["sources"].items():
    rows.append([name, *(_cell(row[column]) for column in columns)])
  lines = _aligned(rows)
  if found["pack"] > 1:
    lines.append(
      f"these are single conversations; the run draws rows of up to {found['pack']}"
      " about one picture, and the weights are those of rows"
    )
  for name, title in TITLES.items():
    histogram = found["histograms"][name]
    lines += ["", title]
    most = max(histogram["counts"], default=0)
    for label, count in zip(_labels(histogram), histogram["counts"], strict=True):
      bar = "#" * round(30 * count / most)
      lines.append(f"  {label:>12} {count:>7,}  {bar}".rstrip())
  return "\n".join(lines)


def _cell(value):
  if value is None:
    return "-"
  return f"{value:.3g}" if isinstance(value, float) else f"{value}"


def _labels(histogram):
  """What each bin is called: `3`, `84-88` of whole numbers, `0.01-0.03` of areas."""
  edges = histogram["edges"]
  last = 1 if all(isinstance(edge, int) for edge in edges) else 0
  return [
    f"{low:g}" if low == high - last else f"{low:g}-{high - last:g}"
    for low, high in zip(edges[:-1], edges[1:], strict=True)
  ]


def _aligned(rows):
  widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
  return [
    "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]


def draw(found: dict, path: str) -> None:
  """Writes the picture: the mixture beside its weights, and the histograms."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 9), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplot_mosaic(
    [["mixture"] * 2, ["tokens", "turns"], ["areas", "masks"]]
  )
  _draw_mixture(axes["mixture"], found)
  for name, title in TITLES.items():
    histogram = found["histograms"][name]
    places = range(len(histogram["counts"]))
    axes[name].bar(places, histogram["counts"], width=1.0, edgecolor="white")
    axes[name].set_xticks(places, _labels(histogram), rotation=45)
    axes[name].set_title(title)
  try:
    figure.savefig(path, dpi=110)
  except (OSError, ValueError) as error:
    raise UserError(f"--out {path}: cannot write this picture: {error}") from None


def _draw_mixture(axis, found):
  names, places = list(found["sources"]), np.arange(len(found["sources"]))
  for shift, key, label in ((-0.2, "wanted", "weight"), (0.2, "share", "drawn")):
    shares = [row[key] for row in found["sources"].values()]
    axis.bar(places + shift, shares, width=0.4, label=label)
  axis.set_xticks(places, names, rotation=20)
  axis.set_title(f"share of each data set in {found['draws']} draws")
  axis.legend()
