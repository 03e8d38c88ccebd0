"""Where the time of a run goes: booked by cause, kept over its lives."""

import json
import os
import re

import pytest

from miras_jax.training import goodput


class Clock:
  """A clock that is set; seconds since 1970 are 1,000 more."""

  def __init__(self, at=0.0):
    self.at = at

  def __call__(self):
    return self.at

  def now(self):
    return 1000 + self.at


def account(folder, clock, **options):
  return goodput.Goodput(
    folder / "metrics.jsonl", clock=clock, now=clock.now, **options
  )


def live(folder, clock):
  """30 seconds: 5 to start, 5 compiling, 20 training of which 2 wait and 3 save."""
  found = account(folder, clock)
  clock.at += 5
  with found.during("compile"):
    clock.at += 5
  found.begin()
  found.spend("data_wait", 2.0)
  clock.at += 17
  with found.during("save"):
    clock.at += 3
  found.save(step=7)
  return found


def test_a_later_stage_of_a_run_is_no_second_start(tmp_path):
  clock = Clock()
  found = live(tmp_path, clock)
  before = found.seconds()["initialisation"]
  found.begin()
  assert found.seconds()["initialisation"] == before


def test_each_second_of_a_life_has_one_cause(tmp_path):
  clock = Clock()
  seconds = live(tmp_path, clock).seconds()
  assert {k: v for k, v in seconds.items() if v} == {
    "initialisation": 5, "compile": 5, "data_wait": 2, "save": 3, "step": 15
  }  # fmt: skip
  assert sum(seconds.values()) == clock.at


def test_the_time_before_the_account_began_is_initialisation(tmp_path):
  clock = Clock(at=50.0)
  assert account(tmp_path, clock, age=4.0).seconds()["initialisation"] == 4


def test_after_a_kill_the_steps_since_the_last_save_are_lost_and_the_rest_is_idle(
  tmp_path,
):
  clock = Clock()
  live(tmp_path, clock)  # saved at 30; goes on for 8 seconds, then is killed
  clock.at = 100.0
  found = account(tmp_path, clock, age=10.0, alive_until=1038.0)
  assert found.seconds()["lost_work"] == 8
  assert found.seconds()["idle"] == 90 - 38
  assert sum(found.total().values()) == 100


def test_a_run_that_ended_by_itself_lost_nothing(tmp_path):
  clock = Clock()
  live(tmp_path, clock)
  clock.at = 100.0
  assert account(tmp_path, clock, alive_until=1029.0).seconds()["lost_work"] == 0


def test_goodput_is_of_all_lives(tmp_path):
  clock = Clock()
  live(tmp_path, clock)
  assert live(tmp_path, clock).useful() == pytest.approx(30 / 60)
  assert [life.step for life in goodput.read(tmp_path / goodput.FILE)] == [7, 7]


def test_damaged_lines_of_the_account_are_left_out(tmp_path):
  live(tmp_path, Clock())
  file = tmp_path / goodput.FILE
  file.write_text(file.read_text() + '{"began": 1\n[]\n{"seconds": 3}\n')
  assert len(goodput.read(file)) == 1


def test_a_file_without_an_end_tells_nothing(tmp_path):
  os.mkfifo(tmp_path / goodput.FILE)
  assert goodput.read(tmp_path / goodput.FILE) == []


def test_only_the_first_process_writes(tmp_path):
  found = account(tmp_path, Clock(), enabled=False)
  found.save(step=1)
  assert not (tmp_path / goodput.FILE).exists()


def test_a_sentence_names_the_largest_losses_first():
  seconds = {"step": 3000.0, "compile": 200.0, "save": 400.0, "idle": 0.1}
  assert goodput.sentence(seconds) == (
    "goodput 0.833 of 1:00:00; save 11.1%, compile 5.6%"
  )


def test_a_line_holds_what_the_docs_say(tmp_path):
  live(tmp_path, Clock())
  (line,) = (tmp_path / goodput.FILE).read_text().splitlines()
  plain = json.loads(line)
  assert set(plain) == {"began", "until", "step", "seconds"}
  assert set(plain["seconds"]) == set(goodput.CAUSES)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "1" + "0" * 400, "null"])
@pytest.mark.parametrize("key", ["began", "until", "step", "save"])
def test_a_number_that_is_none_makes_no_life(tmp_path, key, value):
  good = '{"began": 1, "until": 2, "step": 3, "seconds": {"save": 4}}'
  bad = re.sub(rf'"{key}": \d', f'"{key}": {value}', good)
  (tmp_path / goodput.FILE).write_text(f"{bad}\n{good}\n")
  (life,) = goodput.read(tmp_path / goodput.FILE)
  assert life.seconds["save"] == 4
