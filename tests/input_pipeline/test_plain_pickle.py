"""Pickles are read as data: all of Python's protocols, and nothing that is called."""

import os
import pickle

import numpy as np
import pytest

from input_pipeline import plain_pickle

VALUE = [
  {
    "ref_id": 7,
    "ann_id": -1,
    "big": 1 << 40,
    "share": 0.5,
    "yes": True,
    "none": None,
    "sent_ids": [1, 300, 70_000],
    "sentences": [{"sent": "left man", "raw": "Caf\u00e9 \U0001f600"}],
    "pair": (1, "b"),
    "more": (1, 2, 3, 4),
    "nothing": [(), [], {}],
  }
] * 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol(protocol):
  assert plain_pickle.load(pickle.dumps(VALUE, protocol)) == VALUE


def test_byte_strings_of_python_2_become_text():
  # What Python 2 wrote for {'sent': 'left', u'x': 'caf\xe9', 'y': 'caf\xc3\xa9'}
  short = b"\x80\x02}q\x00(U\x04sentq\x01U\x04leftX\x01\x00\x00\x00xU\x04caf\xe9"
  binary = short + b"U\x01yT\x05\x00\x00\x00caf\xc3\xa9u."
  lines = (
    b"(dp0\nS'sent'\np1\nS'left'\np2\nsVx\nS'caf\\xe9'\nsS'y'\nS'caf\\xc3\\xa9'\ns."
  )
  wanted = {"sent": "left", "x": "caf\u00e9", "y": "caf\u00e9"}
  assert plain_pickle.load(binary) == wanted
  assert plain_pickle.load(lines) == wanted


class Evil:
  def __reduce__(self):
    return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(protocol, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match="GLOBAL: refused"):
    plain_pickle.load(pickle.dumps([Evil()], protocol))
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "ends early"),
    (b"\x80\x02]q\x00", "ends early"),
    (b"(.", "a mark out of place"),
    (b"a.", "is damaged near byte"),
    (b"l.", "is damaged near byte"),
    (b"]I1\nI2\ns.", "no dict"),
    (b"}(]I1\nu.", "has a list as a key"),
    (b"X\xff\xff\xff\xffab.", "ends early"),
    (b"I" + b"9" * 5000 + b"\n.", "5,000 digits"),
    (b"S'open\n.", "without quotes"),
    (b"h\x05.", "is damaged near byte"),
    (b"(i os\nsystem\n.", "INST: refused"),
    (b"\x82\x01.", "EXT1: refused"),
    (b"P1\n.", "PERSID: refused"),
    (b"\xff.", "0xff: refused"),
  ],
)
def test_damage_and_tricks_are_named(data, reason):
  with pytest.raises(ValueError, match=reason):
    plain_pickle.load(data)


def test_a_huge_memo_number_costs_nothing():
  assert plain_pickle.load(b"]r\xff\xff\xff\xff.") == []


def test_the_number_of_steps_is_bounded():
  with pytest.raises(ValueError, match="more than 100 steps"):
    plain_pickle.load(b"](" + b"N" * 1000 + b"e.", max_opcodes=100)


def test_a_nest_of_shared_lists_costs_what_it_spells():
  # Thirty levels of [x, x]: 2**30 values for whoever walks it, sixty steps for us.
  data = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(30)) + b"."
  assert len(plain_pickle.load(data, max_opcodes=300)) == 2


def test_two_thousand_damaged_pickles_are_read_or_refused():
  rng = np.random.default_rng(0)
  originals = [pickle.dumps(VALUE, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
  outcomes = set()
  for i in range(2000):
    data = bytearray(originals[i % len(originals)])
    for _ in range(rng.integers(1, 5)):
      data[rng.integers(len(data))] = rng.integers(256)
    try:
      plain_pickle.load(bytes(data), max_opcodes=10_000)
      outcomes.add("read")
    except ValueError as error:
      assert "\n" not in str(error)
      outcomes.add("refused")
  assert outcomes == {"read", "refused"}
