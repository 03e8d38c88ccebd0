"""Two hundred uploads and messages made to break it: each gets an answer, the server
goes on, and nothing is written.
"""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.serving import helpers
from tests.serving.helpers import say, start

HTML = b"<!doctype html><script>alert(1)</script>"
NAMES = ("../../etc/passwd", "a\x00.png", "<img src=x onerror=a()>.png", "\u202egnp")


@pytest.fixture(scope="module")
def client():
  with helpers.client(upload_mb=2, max_pixels=1_000_000) as client:
    yield client


def seeds():
  """The same small picture in every format."""
  pixels = np.random.default_rng(1).integers(0, 255, (20, 24, 3), np.uint8)
  for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    yield stream.getvalue()


def damaged(rng, data):
  """Bytes turned, cut out, doubled, or the end cut off."""
  data = bytearray(data)
  kind, at = rng.integers(4), int(rng.integers(len(data)))
  if kind == 0:
    for k in rng.integers(0, len(data), 8):
      data[k] ^= int(rng.integers(1, 256))
  if kind == 1:
    del data[at:]
  if kind == 2:
    del data[at : at + 16]
  if kind == 3:
    data[at:at] = data[:at]
  return bytes(data)


def chunk(kind, data):
  checksum = struct.pack(">I", zlib.crc32(kind + data))
  return struct.pack(">I", len(data)) + kind + data + checksum


def bomb(width, height, rows=b""):
  """A PNG whose header says what it likes."""
  head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
  return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def uploads():
  yield from (b"", b"\0" * 4096, HTML, b"GIF89a" + HTML, b"PK\3\4" + HTML, b"%PDF-1.7")
  yield from (bomb(2**31 - 1, 2**31 - 1), bomb(0, 0), bomb(60_000, 60_000))
  yield bomb(900, 900, b"\0" * 50_000_000)  # unpacks to far more than it says
  yield b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x01\x22\x00" * 3
  yield b"<?xml version='1.0'?><svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>"
  kept, rng = list(seeds()), np.random.default_rng(0)
  yield from kept
  for k in range(180):
    yield damaged(rng, kept[k % len(kept)])


def test_two_hundred_hostile_uploads(client, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  codes = []
  for k, data in enumerate(uploads()):
    name = NAMES[k % len(NAMES)]
    answer = client.post("/v1/conversations", files={"image": (name, data)})
    codes.append(answer.status_code)
    if answer.status_code == 201:
      assert not set("/\\\0") & set(answer.json()["image"]["name"])
    else:
      assert set(answer.json()) == {"error"} and "\n" not in answer.json()["error"]
  assert len(codes) >= 190 and set(codes) == {201, 422}
  assert say(client, start(client)).status_code == 200
  assert not list(tmp_path.iterdir())


BODIES = [
  b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000,
  b'{"text":' + b"9" * 100_000 + b"}", b'{"text": NaN}', b'{"text": "\\ud800"}',
  b'{"text": "a", "points": [[1e999, 0, true]]}', b'{"text": "a", "box": [null]}',
  b'{"text": "a", "mask": {"size": [99999999, 99999999], "counts": "0"}}',
  b'{"text": "a", "mask": {"size": [8, 12], "counts": "\xc3\xa9"}}',
  b'{"text": "a", "mask": {"size": [8, 12], "counts": [-5, 101]}}',
  b'{"text": "a", "mask": {"size": [0, 0], "counts": []}}',
  b'{"text": "a", "mask": "data:image/svg+xml;base64,PHN2Zy8+"}',
  b'{"text": "a", "refers_to": 1e30}', b'{"text": "a", "seed": -1}',
  b'{"text": "a", "top_p": 0}', b'{"text": "a", "__proto__": {}}',
]  # fmt: skip
TEXTS = [
  "<script>alert(1)</script>", "[SEG]" * 50, "</s><s>[OBJ]cup[SEG]", "<im_start>",
  "\x00\x01\x1b[2J", "\u202e\u2066", "e" + "\u0301" * 300, "\U0010ffff", "A" * 7999,
  "\n" * 500 + "a", "{{7*7}}${7*7}%s%n", "'; DROP TABLE talks; --", "\ufeff\ufffe",
]  # fmt: skip


PATHS = ["say", "", "/predict", "/v1/predict", "/api/generate"]


@pytest.mark.parametrize("path", PATHS)
def test_hostile_bodies(client, path):
  talk = start(client)
  address = {"say": f"{talk}/say", "": "/v1/conversations"}.get(path, path)
  for body in BODIES:
    headers = {"content-type": "application/json"}
    answer = client.post(address, content=body, headers=headers)
    assert answer.status_code in (400, 422), (body[:60], answer.text)
    assert set(answer.json()) == {"error"} and len(answer.json()["error"]) < 500
  assert say(client, talk).status_code == 200


def test_hostile_messages(client):
  for text in TEXTS:
    talk = start(client)
    answer = say(client, talk, text)
    assert answer.status_code in (200, 422), (text[:40], answer.text)
    assert client.get(f"{talk}/labelme.json").status_code == 200
    assert say(client, talk).status_code == 200


def test_hostile_addresses(client):
  talk = start(client)
  for tail in ("masks/-1.png", "masks/9999999999999999999999.png", "masks/a.png",
               "../../../etc/passwd", "masks/..%2f..%2fsecret.png", "%00"):  # fmt: skip
    assert client.get(f"{talk}/{tail}").status_code in (404, 422)
  for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd"):
    assert client.get(f"/static/{name}").status_code == 404


def test_a_config_of_label_studio_that_is_deep(client):
  body = {"tasks": [], "label_config": "<a>" * 30_000 + "</a>" * 30_000}
  answer = client.post("/predict", content=json.dumps(body),
                       headers={"content-type": "application/json"})  # fmt: skip
  assert answer.status_code == 422 and "label_config" in answer.json()["error"]
