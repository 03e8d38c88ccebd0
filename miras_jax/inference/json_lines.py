"""Files of one JSON object a line that are appended to and survive a kill."""

import json
import os

from input_pipeline import regular_file


class Appender:
  """Appends JSON lines to a file, each in one piece; a torn last line goes first."""

  def __init__(self, path):
    self._path = path

  def __enter__(self):
    cut_torn_line(self._path)
    self._file = open(self._path, "ab", buffering=0)
    return self

  def __exit__(self, *_):
    self._file.close()

  def write(self, line):
    data = memoryview(json.dumps(line).encode() + b"\n")
    while data:
      data = data[self._file.write(data) :]

  def sync(self):
    os.fsync(self._file.fileno())


def cut_torn_line(path):
  """Takes away a last line that a kill left without its end."""
  if not regular_file.is_there(path):
    return
  regular_file.open_regular(path).close()
  with open(path, "rb+") as file:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
      start = max(0, end - (1 << 16))
      file.seek(start)
      block = file.read(end - start)
      if (at := block.rfind(b"\n")) >= 0:
        file.truncate(start + at + 1)
        return
      end = start
    file.truncate(0)
