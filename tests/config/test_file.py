"""`--config=`: what is taken for a config, and how a wrong one is told."""

import pytest

from configs import common
from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.options import local_path


@pytest.fixture
def write(tmp_path):
  def write(text, name="mine.py"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)

  return write


def test_the_config_of_a_run_repeats_it(write):
  run = config_file.read("miras_7b_stage2:size=tiny", [("data.pack", "2")])
  assert config_file.read(write(run.to_json(), "config.json")) == run


def test_a_config_of_another_folder_is_not_that_of_the_package():
  with pytest.raises(UserError, match="no config '/nowhere/miras_7b_stage2.py'"):
    config_file.load("/nowhere/miras_7b_stage2.py")


@pytest.mark.parametrize(
  "text, words",
  [
    ("def get_config(o):\n  return", "mine.py: get_config returns a NoneType"),
    ("x = 1", "no function get_config"),
    ("import nothing_here", "mine.py:1: ModuleNotFoundError.*nothing_here"),
    ("\n\ndef get_config(o:\n", "mine.py:3: SyntaxError"),
    ("def get_config(o):\n\n  return 1 / 0", "mine.py:3: ZeroDivisionError"),
    ("def get_config():\n  return 1", "mine.py:1: TypeError"),
  ],
)
def test_a_config_that_does_not_run_is_one_line(write, text, words):
  with pytest.raises(UserError, match=words):
    config_file.load(write(text))


@pytest.mark.parametrize(
  "change, words",
  [
    ("c.optim.lrr = 1.0", "lrr"),
    ("c.optim = dict(name='adamw', lrr=1.0)", "optim.lrr.*optim.lr"),
    ("c.steps = 'many'", "mine.py:4: TypeError"),
  ],
)
def test_a_wrong_field_of_a_config_is_one_line(write, change, words):
  text = (
    "from configs import common\ndef get_config(o):\n  c = common.base_config()\n"
    f"  {change}\n  return c\n"
  )
  with pytest.raises(UserError, match=words):
    config_file.read(write(text))


def test_a_json_that_is_no_run_is_one_line(write):
  with pytest.raises(UserError, match="not the config.json of a run"):
    config_file.load(write('{"steps": 3, "more": 4}', "other.json"))


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  c = common.base_config()
  c.data.dir = "~/data"
  assert RunConfig.from_config_dict(c).data.dir == "/home/me/data"
  assert local_path("~/runs") == "/home/me/runs"


def test_a_bucket_is_refused():
  with pytest.raises(UserError, match="gs:// is not supported"):
    local_path("gs://bucket/run")
