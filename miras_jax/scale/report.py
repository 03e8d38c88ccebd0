"""Entries of scale.json as a terminal table and as one self-contained page."""

import base64
import html
import io
import math

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = (
  "body{font:14px sans-serif;margin:2em;max-width:110em}"
  "table{border-collapse:collapse}"
  "td,th{border:1px solid #ccc;padding:3px 7px;text-align:right}"
)
GIB = 2**30
COLUMNS = (
  "topology", "program", "mesh", "rows", "talks", "HBM GiB", "fits", "TFLOP",
  "analytic", "traffic GiB", "ICI GiB", "DCN GiB", "bound s", "by", "MFU <=",
  "examples/s", "tokens/s", "chip-h",
)  # fmt: skip


def table(entries):
  """A text table, one line an entry, then what each pays for."""
  rows = [COLUMNS, *(_row(e) for e in entries)]
  widths = [max(len(r[i]) for r in rows) for i in range(len(COLUMNS))]
  lines = [
    "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
  ]
  lines.insert(1, "-" * len(lines[0]))
  for entry in entries:
    lines += [f"{_title(entry)}: {text}" for text in remarks(entry)]
  return "\n".join(lines)


def remarks(entry):
  """Sentences about one entry: notes, why it does not fit, collectives, traps."""
  yield from entry.get("notes", ())
  if entry.get("problem"):
    yield f"DOES NOT FIT: {entry['problem']}"
    for buffer in entry.get("largest_buffers", ()):
      yield (
        f"  {buffer['bytes'] / GIB:.2f} GiB {buffer['shape']} {buffer['op_name'][:90]}"
      )
  for c in entry.get("collectives", ()):
    if c["bytes"] >= 0.01 * GIB:
      runs = f" in {c['count']} operations" if c["count"] else ""  # 0: estimated
      yield (
        f"{c['kind']} over {c['axis']} ({c['network'].upper()}):"
        f" {c['bytes'] / GIB:.2f} GiB{runs}"
      )
  if entry.get("source") == "compiled" and entry.get("flops"):
    ratio = entry["flops"] / entry["flops_analytic"]
    yield f"compiled FLOPs are {ratio:.3f} of the analytic ones"
  if entry.get("measured_s"):
    yield (
      f"measured {entry['measured_s']:.4f} s a step, bound"
      f" {_number(entry['step_time_bound_s'], 4)} s"
    )
  yield from entry.get("traps", ())


BREAKDOWN = ("HBM GiB", "TFLOP", "least ms", "runs", "module", "pass", "kind")
SHOWN = 30  # rows of a breakdown; what is below comes as one


def breakdowns(entries):
  """Lines of a table for each entry that was compiled, the longest operations first."""
  for entry in entries:
    if not entry.get("breakdown"):
      continue
    yield f"\n{_title(entry)}: where bytes and FLOPs go, on one chip in a step"
    for row in (_breakdown_head(entry), *_breakdown(entry)):
      numbers = "".join(f"{cell:>10}" for cell in row[:4])
      yield f"{numbers}  {row[4]}  {row[5]}  {row[6]}"


def _breakdown_head(entry):
  measured = entry.get("source") == "measured"
  return tuple(x.replace("least ms", "ms") if measured else x for x in BREAKDOWN)


def _breakdown(entry):
  """Cells of the table: the SHOWN longest rows and the sum of the others."""
  found = entry["breakdown"]
  out = [_breakdown_row(row) for row in found[:SHOWN]]
  rest = {
    name: sum(row[name] for row in found[SHOWN:])
    for name in ("bytes", "flops", "seconds", "count")
  }
  names = {"module": f"{len(found) - SHOWN} others", "phase": "", "kind": ""}
  return out + ([_breakdown_row(rest | names)] if len(found) > SHOWN else [])


def _breakdown_row(row):
  return (
    _number(row["bytes"], 2, GIB), _number(row["flops"], 3, 1e12),
    _number(row["seconds"], 2, 1e-3), str(row["count"]),
    row["module"], row["phase"], row["kind"],
  )  # fmt: skip


def _title(entry):
  return f"{entry.get('label') or entry['topology']} {entry['program']}"


def _row(entry):
  mesh = " ".join(f"{k}={v}" for k, v in entry["mesh"].items() if v != 1) or "one"
  networks = {"ici": 0, "dcn": 0}
  for c in entry.get("collectives", ()):
    networks[c["network"]] += c["bytes"]
  hbm = "?" if entry["hbm_bytes"] is None else f"{entry['hbm_bytes'] / GIB:.2f}"
  return (
    entry.get("label") or entry["topology"],
    entry["program"],
    mesh,
    str(entry["batch_size"]),
    str(entry["pack"]),
    f"{hbm}/{entry['hbm_capacity'] / GIB:.2f}",
    "yes" if entry["fits"] else "NO",
    _number(entry["flops"], 2, 1e12),
    _number(entry["flops_analytic"], 2, 1e12),
    _number(entry["hbm_traffic"], 1, GIB),
    _number(networks["ici"], 2, GIB),
    _number(networks["dcn"], 3, GIB),
    _number(entry["step_time_bound_s"], 3),
    entry.get("bound") or "-",
    _number(entry["mfu_ceiling"], 3),
    _number(entry.get("examples_per_s"), 2),
    _number(entry.get("tokens_per_s"), 0),
    _number(entry.get("chip_hours"), 1),
  )


def _number(value, digits, unit=1.0):
  return "-" if value is None else f"{value / unit:.{digits}f}"


def write_html(path, entries):
  """One page that loads nothing: plots, the table, remarks."""
  head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in _row(e)) + "</tr>"
    for e in entries
  )
  notes = "".join(
    f"<h3>{html.escape(_title(e))}</h3><ul>"
    + "".join(f"<li>{html.escape(r)}</li>" for r in remarks(e))
    + "</ul>"
    + _breakdown_html(e)
    for e in entries
  )
  image = base64.b64encode(plots(entries)).decode()
  path.write_text(
    f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>miras scale</title>
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>{STYLE}</style>
<h1>miras scale</h1>
<img alt="memory, time and rates" src="data:image/png;base64,{image}">
<table><tr>{head}</tr>{body}</table>
<p>Per device and step; "talks" is conversations a row, examples are conversations (of
<code>cache</code>, images). The bound takes every unit at its peak and all at once: no
real step is faster. Compiled for devices that are not there; nothing here was run.</p>
{notes}</html>
""",
    encoding="utf-8",
  )


def _breakdown_html(entry):
  if not entry.get("breakdown"):
    return ""
  rows = (
    f"<tr>{''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in row)}</tr>"
    for tag, row in [
      ("th", _breakdown_head(entry)),
      *(("td", r) for r in _breakdown(entry)),
    ]
  )
  title = "<summary>where bytes and FLOPs go</summary>"
  return f"<details>{title}<table>{''.join(rows)}</table></details>"


def plots(entries):
  """PNG bytes: HBM against capacity, seconds a unit, examples/s a chip."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  names = [e.get("label") or f"{e['topology']}\n{e['program']}" for e in entries]
  where = range(len(entries))
  figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
  axes[0].bar(where, [(e["hbm_bytes"] or 0) / GIB for e in entries])
  for i, e in enumerate(entries):
    axes[0].hlines(e["hbm_capacity"] / GIB, i - 0.45, i + 0.45, color="crimson")
  axes[0].set_title("peak HBM a device, GiB (line: capacity)")
  units = ("compute", "hbm", "ici", "dcn")
  for j, unit in enumerate(units):
    times = [(e.get("times_s") or {}).get(unit, 0) for e in entries]
    axes[1].bar([i + (j - 1.5) * 0.2 for i in where], times, 0.2, label=unit)
  axes[1].set_title("seconds a step at peak; the highest is the bound")
  axes[1].legend(loc="upper left")
  if any(e.get("series") for e in entries):
    _efficiencies(axes[2], entries)
  else:
    rates = [(e.get("examples_per_s") or 0) / e["chips"] for e in entries]
    axes[2].plot(where, rates, "o-")
    axes[2].set_title("examples/s a chip at the bound")
  axes[2].set_ylim(bottom=0)
  for ax in axes:
    ax.set_xticks(list(where), names, rotation=60, ha="right", fontsize=8)
  out = io.BytesIO()
  figure.savefig(out, format="png", dpi=110)
  plt.close(figure)
  return out.getvalue()


def _efficiencies(ax, entries):
  """A line a series; a dotted one where a network begins to dominate, and which."""
  for name in dict.fromkeys(e.get("series") for e in entries):
    own = [i for i, e in enumerate(entries) if e.get("series") == name]
    heights = [entries[i].get("efficiency") for i in own]
    heights = [math.nan if h is None else h for h in heights]
    (line,) = ax.plot(own, heights, "o-", label=name)
    for i in own:
      if why := entries[i].get("dominates"):
        ax.axvline(i, color=line.get_color(), linestyle=":")
        ax.text(i, 0.02, f" {why}", rotation=90, va="bottom", fontsize=8)
  ax.legend(loc="center", fontsize=8)
  highest = max([e.get("efficiency") or 0 for e in entries])
  ax.set_ylim(top=1.15 * max(highest, 0.1))
  ax.set_title("efficiency (dotted: a network first dominates)")
