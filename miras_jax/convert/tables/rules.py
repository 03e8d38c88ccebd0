"""Rules: a published key paired with one of our paths, readable in both directions.

Both are templates:

  {i}         an integer without leading zeros; {i:02} the same with at least two digits
  {p:q|k|v}   one of these words; written {p} on the other side
  ...[{i}]    our side only: entry `i` of a leaf that stacks layers on its first axis

`fn` makes our array of the published one and `inverse` undoes it. Both only move
numbers (transpose, split, concatenate), so that in -> out -> in is bit-identical in
every dtype. A rule whose `dst` is a tuple splits one published array.

Templates and not a regex with `\\1`: a regex cannot be run backwards.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# -- rules ----------------------------------------------------------------------------


def _keep(x):
  return x


class Rule(NamedTuple):
  """`src` published key, `dst` our path or paths, `fn(array)`, `inverse(*arrays)`."""

  src: str
  dst: str | tuple[str, ...]
  fn: Callable = _keep
  inverse: Callable = _keep


def swap(w):
  """Linear weight (out, in) <-> (in, out)."""
  return w.swapaxes(0, 1)


def conv_in(w):
  """Convolution (out, in, height, width) -> (height, width, in, out)."""
  return w.transpose(2, 3, 1, 0)


def conv_out(w):
  return w.transpose(3, 2, 0, 1)


def deconv_in(w):
  """Transposed convolution (in, out, height, width) -> (height, width, in, out)."""
  return w.transpose(2, 3, 0, 1)


def thirds(w):
  """torch's `in_proj` -> queries, keys, values: weights (in, out) or biases."""
  return tuple(swap(part) if part.ndim == 2 else part for part in np.split(w, 3))


def join_thirds(*parts):
  return np.concatenate([swap(p) if p.ndim == 2 else p for p in parts])


def _layer(dst):
  """(body, "[{i}]" or "") of a template."""
  body, bracket, index = dst.partition("[")
  return body, bracket + index


def _leaf(dst, name):
  body, index = _layer(dst)
  return f"{body}/{name}{index}"


def bias(src, dst):
  return Rule(f"{src}.bias", _leaf(dst, "bias"))


def linear(src, dst):
  """Rules for `{src}.weight` and `{src}.bias` of a linear layer at our `dst`."""
  return Rule(f"{src}.weight", _leaf(dst, "kernel"), swap, swap), bias(src, dst)


def norm(src, dst):
  return Rule(f"{src}.weight", _leaf(dst, "scale")), bias(src, dst)


def conv(src, dst):
  return Rule(f"{src}.weight", _leaf(dst, "kernel"), conv_in, conv_out), bias(src, dst)


def deconv(src, dst):
  weight = Rule(f"{src}.weight", _leaf(dst, "kernel"), deconv_in, deconv_in)
  return weight, bias(src, dst)


def moved(rules, *, src=None, dst=None):
  """The same rules with `src` and `dst` as pairs (old beginning, new beginning)."""

  def change(text, pair):
    if pair is None or not text.startswith(pair[0]):
      return text
    return pair[1] + text[len(pair[0]) :]

  def change_all(texts):
    if isinstance(texts, tuple):
      return tuple(change(t, dst) for t in texts)
    return change(texts, dst)

  return tuple(r._replace(src=change(r.src, src), dst=change_all(r.dst)) for r in rules)


# -- templates ------------------------------------------------------------------------

FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")


def _fields(template):
  return {m[1]: m[2] or "" for m in FIELD.finditer(template)}


def _regex(template, words):
  """Full-match regex of a template; `words` are the alternatives of word fields."""
  out, end = "", 0
  for field in FIELD.finditer(template):
    name, spec = field[1], field[2] or ""
    number = r"\d{2,}" if spec == "02" else r"0|[1-9]\d*"
    out += re.escape(template[end : field.start()])
    out += f"(?P<{name}>{words.get(name, number)})"
    end = field.end()
  return re.compile(out + re.escape(template[end:]))


def _fill(template, fields):
  def value(field):
    text = fields[field[1]]
    return f"{int(text):02d}" if field[2] == "02" else text

  return FIELD.sub(value, template)


def _numbers(fields):
  """Numbers without leading zeros, words as they are."""
  return {k: str(int(v)) if v.isdigit() else v for k, v in fields.items()}


class Place(NamedTuple):
  """One of our leaves, or one layer of it."""

  path: str
  layer: int | None = None

  def __str__(self):
    return self.path if self.layer is None else f"{self.path}[{self.layer}]"


class CompiledRule:
  """A rule with its regexes, in both directions."""

  def __init__(self, rule):
    self.rule = rule
    dsts = rule.dst if isinstance(rule.dst, tuple) else (rule.dst,)
    specs = _fields(rule.src) | {}
    for dst in dsts:
      specs |= {k: v for k, v in _fields(dst).items() if k not in specs}
    words = {k: v for k, v in specs.items() if v and v != "02"}
    self.src = _regex(rule.src, words)
    self.dsts = [_layer(dst) for dst in dsts]
    self.paths = [_regex(body, words) for body, _ in self.dsts]

  def places(self, key):
    """The places of a published key, or None."""
    match = self.src.fullmatch(key)
    return self._places(match.groupdict()) if match else None

  def _places(self, fields):
    fields = _numbers(fields)
    return [
      Place(_fill(body, fields), int(_fill(index[1:-1], fields)) if index else None)
      for body, index in self.dsts
    ]

  def origin(self, place):
    """(published key, all places that the key fills) of one of our places, or None."""
    for (body, index), regex in zip(self.dsts, self.paths, strict=True):
      match = regex.fullmatch(place.path)
      if not match or bool(index) != (place.layer is not None):
        continue
      fields = match.groupdict()
      if index:
        fields[index[2:-2]] = str(place.layer)
      if _fill(body, _numbers(fields)) == place.path:
        fields = _numbers(fields)
        return _fill(self.rule.src, fields), self._places(fields)
    return None

  def stacks(self, path):
    """Whether `path` is a leaf of stacked layers; None: not a leaf of this rule."""
    for (_, index), regex in zip(self.dsts, self.paths, strict=True):
      if regex.fullmatch(path):
        return bool(index)
    return None
