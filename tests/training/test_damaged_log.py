"""A metrics.jsonl that was damaged: its whole rows count, the rest does not."""

import json
import os

import pytest

from miras_jax.errors import UserError
from miras_jax.training import metrics_log

GOOD = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}, {"step": 3, "loss": 0.3}]
BAD = [
  b"[]", b"5", b'"step"', b'{"loss": 1}', b'{"step": "2"}', b'{"step": [1]}',
  b'{"step": null}', b'{"step": -1}', b'{"step": 1e400}', b"\xff\xfe", b"[" * 50_000,
  b'{"step": 2, "lo',
]  # fmt: skip


def write(path, *lines):
  rows = [json.dumps(row).encode() for row in GOOD]
  path.write_bytes(b"\n".join([*rows, *lines]) + b"\n")
  return path


@pytest.mark.parametrize("line", BAD)
def test_line_that_is_no_row_is_counted(tmp_path, line):
  rows, unread = metrics_log.read_rows(write(tmp_path / "m.jsonl", line))
  assert [row for row, _ in rows] == GOOD and unread == 1


def test_resuming_keeps_the_rows_up_to_its_step_and_nothing_else(tmp_path):
  path = write(tmp_path / "m.jsonl", *BAD)
  metrics_log.drop_after(path, 2)
  assert [json.loads(line) for line in path.read_text().splitlines()] == GOOD[:2]


def test_line_without_end_takes_little_memory(tmp_path):
  path = write(tmp_path / "m.jsonl", b"x" * (3 * metrics_log.MAX_LINE))
  rows, unread = metrics_log.read_rows(path)
  assert len(rows) == 3 and unread >= 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(tmp_path, make):
  path = tmp_path / "m.jsonl"
  make(path)
  assert metrics_log.read_rows(path) == ([], 0)
  with pytest.raises(UserError, match="no regular file"):
    metrics_log.drop_after(path, 2)
