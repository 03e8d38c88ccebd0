"""Requests, store, pace, pool and cost, each on its own."""

import dataclasses
import json
import sqlite3
import threading
import time

import numpy as np
import pytest

from miras_jax.errors import UserError
from miras_jax.llm import cost, pool
from miras_jax.llm.pace import Pace, Stopped
from miras_jax.llm.request import Message, Picture, Request
from miras_jax.llm.store import Store

GREY_HWC = np.full((4, 6, 3), 127, np.uint8)
ASKED = Request("gpt-4o-mini", (Message("user", ("a" * 400,)),))


def about(*parts, **fields):
  return dataclasses.replace(ASKED, messages=(Message("user", parts),), **fields)


def test_key_is_of_the_content():
  one = about("look", Picture(GREY_HWC), extra={"a": 1, "b": 2})
  same = about("look", Picture(GREY_HWC.copy()), extra={"b": 2, "a": 1})
  assert one.key == same.key
  other_HWC = GREY_HWC.copy()
  other_HWC[0, 0, 0] += 1
  assert about("look", Picture(other_HWC), extra=one.extra).key != one.key
  turned_HWC = GREY_HWC.transpose(1, 0, 2)
  assert about("look", Picture(turned_HWC), extra=one.extra).key != one.key
  assert about("look", Picture(GREY_HWC)).key != one.key


def test_picture_is_sent_as_jpeg_and_kept_as_digest():
  asked = about("look", Picture(GREY_HWC))
  text, picture = asked.body()["messages"][0]["content"]
  assert text == {"type": "text", "text": "look"}
  assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
  assert "base64" not in asked.canonical


def test_half_a_character_can_be_sent():
  assert json.dumps(about("a\ud800").body(), ensure_ascii=False).encode()


def test_longer_doubles_the_field_that_the_endpoint_knows():
  extra = {"max_tokens": None, "max_completion_tokens": 50}
  body = about("x", extra=extra).longer().body()
  assert body["max_completion_tokens"] == 100
  assert "max_tokens" not in body


def test_first_reply_stands(tmp_path):
  one, other = Store(tmp_path / "s"), Store(tmp_path / "s")
  assert one.put("k", "{}", "http://a", "first") == "first"
  assert other.put("k", "{}", "http://b", "second") == "first"
  assert one.get("none") is None


def test_store_that_is_none_is_one_line(tmp_path):
  (tmp_path / "s").write_text("no database, but a text that is long enough" * 100)
  with pytest.raises(UserError, match="cannot be used as a store.*not a database"):
    Store(tmp_path / "s")


def test_a_database_of_somebody_else_is_left_alone(tmp_path):
  path = tmp_path / "photos.sqlite"
  with sqlite3.connect(path) as db:
    db.execute("create table photos (name)")
  before = path.read_bytes()
  with pytest.raises(UserError, match="photos.sqlite: is another database"):
    Store(path)
  assert path.read_bytes() == before


def test_a_store_that_is_read_is_not_written(tmp_path):
  Store(tmp_path / "r.sqlite").put("k", "asked", "http://h", "said")
  before = (tmp_path / "r.sqlite").read_bytes()
  assert Store(tmp_path / "r.sqlite").get("k") == "said"
  assert (tmp_path / "r.sqlite").read_bytes() == before


def test_store_of_a_later_version_is_left_alone(tmp_path):
  with sqlite3.connect(tmp_path / "s") as db:
    db.execute("pragma user_version = 9")
  with pytest.raises(UserError, match="is of version 9, want 1"):
    Store(tmp_path / "s")


def test_pace_gives_slots_a_minute_and_rests(monkeypatch):
  now = [100.0]
  pace, slots = Pace(per_minute=30), []
  monkeypatch.setattr(time, "monotonic", lambda: now[0])

  def sleep(seconds):
    now[0] += seconds

  pace.stop.wait = sleep
  for i in range(4):
    if i == 3:
      pace.rest(60)
    pace.wait()
    slots.append(now[0])
  assert slots == [100, 102, 104, 164]


def test_stopped_pace_sends_nothing():
  pace = Pace()
  pace.stop.set()
  with pytest.raises(Stopped):
    pace.wait()


def test_pool_keeps_the_order(ends_soon):
  first_may_end = threading.Event()

  def do(i):
    if i == 0:
      assert first_may_end.wait(10)
    first_may_end.set()
    return i * i

  ticks = []
  found = pool.work(do, range(5), 2, threading.Event(), lambda: ticks.append(1))
  assert (found, len(ticks)) == ([0, 1, 4, 9, 16], 5)


def test_first_error_ends_the_work(ends_soon):
  begun, stop = [], threading.Event()

  def do(i):
    begun.append(i)
    if i == 1:
      raise UserError("the key is wrong")
    stop.wait()

  with pytest.raises(UserError, match="the key is wrong"):
    pool.work(do, range(100), 2, stop)
  assert sorted(begun) == [0, 1]


def test_cost_is_of_what_is_not_stored():
  price = cost.find_price("gpt-4o-mini")
  estimate = cost.Estimate().add(ASKED, False, usual=100).add(ASKED, True, usual=100)
  assert estimate == cost.Estimate(1, 1, tokens_in=104, usual=100, most=600)
  assert estimate.dollars(price) == pytest.approx(
    ((104 * 0.15 + 100 * 0.6) / 1e6, (104 * 0.15 + 600 * 0.6) / 1e6)
  )


def test_picture_costs_by_its_tiles():
  small, large = (np.zeros((side, 100, 3), np.uint8) for side in (512, 513))
  difference = cost.count_tokens(about(Picture(large))) - cost.count_tokens(
    about(Picture(small))
  )
  assert difference == cost.TILE


def test_price_is_found_by_name_without_date():
  assert cost.find_price("openai/gpt-4o-2024-08-06") == cost.find_price("gpt-4o")
  assert cost.find_price("gpt-4o-audio-preview") is None
  assert cost.find_price("gpt-4o", "1,2") == (1, 2)


@pytest.mark.parametrize("price", ["1", "a,b", "-1,2", "nan,1", "1,2,3"])
def test_price_that_is_none_is_said(price):
  with pytest.raises(UserError, match="want IN,OUT"):
    cost.find_price("m", price)
