"""A bucket that is away for a while, for good, or closed: tried again, or one line."""

import threading
import time

import fsspec
import pytest

from miras_jax import options
from miras_jax.errors import UserError
from miras_jax.storage import copies, mirror, reach

PLACE = "gs://b/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  """Waits take no time, and what is given up is so for one test."""
  monkeypatch.setattr(time, "sleep", lambda _: None)
  monkeypatch.setattr(reach, "_given_up", threading.Event())


class Answers:
  """A call that gives or raises one thing after the other."""

  def __init__(self, *answers):
    self.answers, self.calls = list(answers), 0

  def __call__(self):
    self.calls += 1
    answer = self.answers.pop(0)
    if isinstance(answer, Exception):
      raise answer
    return answer


def test_what_fails_for_a_while_is_tried_again():
  call = Answers(ConnectionError("reset"), TimeoutError(), 7)
  assert reach.insist(PLACE, "was not saved", call) == 7 and call.calls == 3


def test_a_bucket_that_stays_away_ends_in_one_line_with_the_remedy(monkeypatch):
  monkeypatch.setenv("MIRAS_BUCKET_LIMIT_S", "3")
  call = Answers(*[ConnectionError("no route")] * 99)
  clock = iter(range(0, 99))
  monkeypatch.setattr(time, "monotonic", lambda: next(clock))
  with pytest.raises(UserError, match="step 4 was not saved: the bucket does not") as e:
    reach.insist(PLACE, "step 4 was not saved", call)
  assert "no route" in str(e.value) and "run the same command again" in str(e.value)


@pytest.mark.parametrize(
  "error, words",
  [
    (OSError("Forbidden: b/run\nno access"), "no permission"),
    (ValueError("PERMISSION_DENIED: x"), "no permission"),
    (FileNotFoundError("b/b/o"), "no such bucket"),
  ],
)
def test_what_waiting_does_not_mend_ends_at_once(error, words):
  call = Answers(error)
  with pytest.raises(UserError, match=words) as e:
    reach.insist(PLACE, "was not saved", call)
  assert call.calls == 1 and "\n" not in str(e.value)


def test_an_error_of_our_own_keeps_its_traceback():
  with pytest.raises(KeyError):
    reach.insist(PLACE, "was not saved", Answers(KeyError("loss")))


def test_a_full_disk_on_this_side_is_no_outage():
  call = Answers(OSError(28, "No space left on device"))
  with pytest.raises(OSError, match="No space left"):
    reach.insist(PLACE, "was not read", call)
  assert call.calls == 1


def test_an_answer_that_never_comes_is_left_behind(monkeypatch):
  monkeypatch.setenv("MIRAS_BUCKET_LIMIT_S", "1")
  never = threading.Event()
  with pytest.raises(UserError, match="no answer within 1 s"):
    reach.insist(PLACE, "was not saved", never.wait)
  assert reach.given_up()
  never.set()


def test_what_is_missing_from_a_checkpoint_is_damage_and_no_outage():
  with pytest.raises(FileNotFoundError):
    reach.read(PLACE, Answers(FileNotFoundError("meta")))
  with pytest.raises(ValueError):
    reach.read(PLACE, Answers(ValueError("bad checksum")))


def test_a_limit_that_is_no_number_is_one_line(monkeypatch):
  monkeypatch.setenv("MIRAS_BUCKET_LIMIT_S", "soon")
  with pytest.raises(UserError, match="MIRAS_BUCKET_LIMIT_S=soon"):
    reach.limit()


def test_a_run_in_s3_is_refused_with_the_remedy():
  with pytest.raises(UserError, match=r"s3://b/run: .*mount the bucket.*gs://"):
    mirror.check_place("s3://b/run")


def test_what_a_bucket_needs_is_named(monkeypatch):
  def missing(*_, **__):
    raise ImportError("No module named 'gcsfs'")

  monkeypatch.setattr(fsspec, "filesystem", missing)
  with pytest.raises(UserError, match=r"pip install 'miras_jax\[gcs\]'"):
    reach._filesystem.__wrapped__("gs")


def test_other_schemes_are_refused_and_home_is_expanded(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert options.expanded("~/runs") == "/home/me/runs"
  assert options.expanded("gs://b/~x") == "gs://b/~x"
  with pytest.raises(UserError, match="ftp:// is not supported"):
    options.expanded("ftp://b/x")


@pytest.mark.parametrize(
  "place",
  ["gs:/b/run", "gs:b/run", "gs//b/run", "GS://b/run", "gs://", "gs:///run", "s3:/b/x",
   "S3://b/x", "gs://b c/run", "gs://b/../c", "gs://b//run", "gs://b/./run"],
)  # fmt: skip
@pytest.mark.parametrize(
  "use", [options.expanded, options.local_path, reach.path, copies.fetch, copies.output]
)
def test_a_misspelled_bucket_is_refused_and_no_folder_of_that_name(
  place, use, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="want (gs|s3)://BUCKET/PATH"):
    use(place)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["gs://b", "gs://b/", "gs://b/a b/é/", "./gs:/b"])
def test_any_other_name_is_a_place(place):
  assert options.expanded(place) == place


@pytest.mark.parametrize("name", ["a%20b", "a#b", "a?b", "a\nb"])
def test_a_run_in_a_bucket_has_no_name_that_a_url_cannot_hold(name):
  with pytest.raises(UserError, match="a run's checkpoints cannot lie where a name"):
    mirror.check_place(f"gs://b/{name}")
  mirror.check_place(f"runs/{name}")
