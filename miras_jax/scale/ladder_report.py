"""The ladder as a terminal table, ladder.json and one self-contained page."""

import base64
import html
import io
import json

from miras_jax.scale.report import POLICY, STYLE

COLUMNS = (
  "rung", "width", "depth", "conversations", "steps", "FLOPs", "parameters", "loss",
  "cIoU", "95 %", "cIoU forced", "train s",
)  # fmt: skip


def table(found):
  """Rungs as text, then the fitted laws."""
  rows = [COLUMNS, *(_row(r) for r in found["rungs"])]
  widths = [max(len(r[i]) for r in rows) for i in range(len(COLUMNS))]
  lines = [
    "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
  ]
  lines.insert(1, "-" * len(lines[0]))
  return "\n".join([*lines, *laws(found)])


def laws(found):
  """A line for each fit: exponent with its band, floor, and what is not known."""
  if 0 < len(found["rungs"]) < 3:
    yield "three rungs or more make a power law"
  for name, fit in found["fits"].items():
    (_, b_low, c_low), (_, b_high, c_high) = fit["low"], fit["high"]
    floor = "no floor" if fit["floor_p"] is not None else "no floor tried: few rungs"
    if fit["has_floor"]:
      floor = f"floor {fit['c']:.4g} [{c_low:.4g}, {c_high:.4g}]"
    elif fit["floor_p"] is not None:
      floor += f" told apart from 0 (p = {fit['floor_p']:.2g})"
    yield (
      f"{name} = {fit['a']:.4g} * FLOPs^-{fit['b']:.4f}: exponent"
      f" {fit['b']:.4f} [{b_low:.4f}, {b_high:.4f}], R2 {fit['r2']:.3f}, {floor}"
    )


def _row(r):
  plan = (
    r["name"], str(r["width"]), str(r["depth"]), str(r["conversations"]),
    str(r["steps"]), f"{r['flops']:.3g}",
  )  # fmt: skip
  if "loss" not in r:
    return plan + ("-",) * (len(COLUMNS) - len(plan))
  ciou = r["ciou"]
  return (
    *plan,
    str(r["parameters"]),
    f"{r['loss']:.4f}",
    f"{ciou['value']:.4f}",
    f"[{_number(ciou['low'])}, {_number(ciou['high'])}]",
    _number(r["ciou_forced"]["value"]),
    f"{r['train_s']:.0f}",
  )


def _number(x):
  return "-" if x is None else f"{x:.3f}"


def write(folder, found):
  """ladder.json and ladder.html."""
  text = json.dumps(found, indent=2, allow_nan=False)
  (folder / "ladder.json").write_text(text + "\n", encoding="utf-8")
  head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in _row(r)) + "</tr>"
    for r in found["rungs"]
  )
  notes = "".join(f"<li>{html.escape(line)}</li>" for line in laws(found))
  image = base64.b64encode(plots(found)).decode()
  (folder / "ladder.html").write_text(
    f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>miras ladder</title>
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>{STYLE}</style>
<h1>Loss and cIoU against training FLOPs</h1>
<img alt="loss and cIoU against FLOPs" src="data:image/png;base64,{image}">
<ul>{notes}</ul>
<table><tr>{head}</tr>{body}</table>
<p>Every rung was trained here by the trainer, from random weights, and scored on the
same {found["rungs"][-1].get("held_out", 0)} held-out conversations. Bars: 95 %,
bootstrap over images. Shaded: 95 % band of the fitted curve, bootstrap over residuals.
Dashed: beyond what was measured.</p></html>
""",
    encoding="utf-8",
  )


def plots(found):
  """PNG bytes: held-out loss, 1 - cIoU and cIoU against FLOPs."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(16, 4.8), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(1, 3)
  rungs, fits = found["rungs"], found["fits"]
  x_N = [r["flops"] for r in rungs]
  _curve(axes[0], fits.get("loss"), x_N)
  axes[0].plot(x_N, [r["loss"] for r in rungs], "o", color="black")
  axes[0].set_yscale("log")
  axes[0].set_title("held-out loss")
  _curve(axes[1], fits.get("1 - ciou"), x_N)
  _bars(axes[1], rungs, lambda v: 1 - v)
  axes[1].set_yscale("log")
  axes[1].set_title("1 - cIoU, held out")
  _curve(axes[2], fits.get("1 - ciou"), x_N, lambda v: 1 - v)
  _bars(axes[2], rungs, lambda v: v)
  axes[2].set_title("cIoU, held out")
  for ax in axes:
    ax.set_xscale("log")
    ax.set_xlabel("training FLOPs")
    ax.grid(alpha=0.25, which="both")
  out = io.BytesIO()
  figure.savefig(out, format="png", dpi=110)
  return out.getvalue()


def _curve(ax, fit, x_N, turn=lambda v: v):
  if not fit:
    return
  x = fit["x"]
  low, high = [turn(v) for v in fit["y_low"]], [turn(v) for v in fit["y_high"]]
  ax.fill_between(x, low, high, alpha=0.2, color="#0072b2", linewidth=0)
  seen = [i for i, v in enumerate(x) if v <= max(x_N) * 1.001]
  y = [turn(v) for v in fit["y"]]
  ax.plot([x[i] for i in seen], [y[i] for i in seen], color="#0072b2")
  ax.plot(x[seen[-1] :], y[seen[-1] :], "--", color="#0072b2")


def _bars(ax, rungs, turn):
  """Points with their measured 95 % intervals."""
  for r in rungs:
    m, x = r["ciou"], r["flops"]
    ax.plot(x, turn(m["value"]), "o", color="black")
    if m["low"] is not None:
      ax.vlines(x, *sorted((turn(m["low"]), turn(m["high"]))), color="black")
