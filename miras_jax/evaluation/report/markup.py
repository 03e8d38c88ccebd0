"""Text, numbers and sections as HTML: everything that came from outside is escaped."""

from miras_jax.page_text import escaped


def text(x, most=None) -> str:
  """Escaped for element content and for quoted attributes; cut at `most` letters."""
  shown = str(x)
  if most is not None and len(shown) > most:
    shown = shown[:most] + " … (cut)"
  return escaped(shown)


def number(x, digits=3) -> str:
  """A value for people: `0.512`, or a dash where there is none."""
  return "–" if x is None else f"{x:.{digits}f}"


def interval(metric) -> str:
  """`0.482 to 0.546` of {"value", "low", "high"}, or nothing where there is none."""
  if metric.get("low") is None or metric.get("high") is None:
    return ""
  return f"{number(metric['low'])} to {number(metric['high'])}"


def plural(count, noun) -> str:
  """`1 target`, `1,061 targets`."""
  return f"{count:,} {noun}{'' if count == 1 else 's'}"


def section(anchor, title, body, note="") -> str:
  """A part of the page under its heading. title: escaped here; body and note: HTML."""
  below = f'<p class="note">{note}</p>' if note else ""
  return f'<section id="{anchor}"><h2>{text(title)}</h2>{below}{body}</section>'
