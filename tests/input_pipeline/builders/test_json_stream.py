"""Lists of JSON files, one element at a time."""

import io
import json

import pytest

from input_pipeline.builders import json_stream

DOCUMENT = {
  "info": {"list": [1, 2]},
  "a": [{"x": ']}\\"'}, 12345, "é", None, [1, [2]], 1.5e3],
  "none": [],
  "text": "a",
  "b": [{"y": i} for i in range(50)],
}
WANTED = [
  (k, v) for k, values in DOCUMENT.items() if type(values) is list for v in values
]


class Slow(io.BytesIO):
  """Gives a few bytes at a time, as a bucket may."""

  def read(self, size=-1):
    return super().read(min(size, 3))


@pytest.mark.parametrize("file", [io.BytesIO, Slow])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_of_each_list(file, indent):
  data = json.dumps(DOCUMENT, indent=indent, ensure_ascii=False).encode()
  assert list(json_stream.elements(file(data))) == WANTED


def test_a_list_and_a_byte_order_mark():
  data = b"\xef\xbb\xbf [1, {} ] \n"
  assert list(json_stream.elements(io.BytesIO(data))) == [("", 1), ("", {})]


@pytest.mark.parametrize(
  "data, reason",
  [
    (b"", "no list or object"),
    (b'{"a": [1, 2', "is not valid JSON"),
    (b'{"a": [1 2]}', "'2' where , or ] is due"),
    (b'{"a": [1,]}', "is not valid JSON"),
    (b'{"a": [1]} x', "something comes after its end"),
    (b'{"a" [1]}', "want a key and a colon"),
    (b'{"a": ["\xff"]}', "is not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'["' + b"x" * 3_000_000, "more than 1,000 characters"),
    (b"[" + b"1" * 5_000 + b"]", "is not valid JSON"),
  ],
)
def test_what_is_no_such_file_has_a_reason(data, reason):
  with pytest.raises(ValueError, match=reason):
    list(json_stream.elements(io.BytesIO(data), limit=1_000))


def test_what_comes_before_the_damage_is_read():
  found = json_stream.elements(io.BytesIO(b'[{"a": 1}, {"b": '))
  assert next(found) == ("", {"a": 1})
  with pytest.raises(ValueError, match="is not valid JSON"):
    next(found)
