"""A JPEG that the decoder warns of is used when every pixel is there, else refused."""

import re

import numpy as np
import pytest

from input_pipeline import image_ops, jpeg_repair
from tests.prist_files import encode, photo

PICTURE = photo(64, 96)
BASELINE = encode(PICTURE, "JPEG", quality=90)
PROGRESSIVE = encode(PICTURE, "JPEG", quality=90, progressive=True)
RESTARTS = encode(PICTURE, "JPEG", quality=90, restart_marker_blocks=4)
END = b"\xff\xd9"
_SCAN = BASELINE.index(b"\xff\xda")
_DATA = _SCAN + 2 + int.from_bytes(BASELINE[_SCAN + 2 : _SCAN + 4], "big")


def before(data, marker, stray, number=0):
  """`data` with stray bytes before the marker of that number."""
  at = [match.start() for match in re.finditer(re.escape(marker), data)][number]
  return data[:at] + stray + data[at:]


WHOLE = {
  "before the end": (before(BASELINE, END, b"x" * 23), BASELINE),
  "stuffed bytes": (before(BASELINE, END, b"\xff\0" * 20), BASELINE),
  "in the header": (before(BASELINE, b"\xff\xdb", b"zz"), BASELINE),
  "in both": (before(before(BASELINE, b"\xff\xdb", b"zz"), END, b"x" * 9), BASELINE),
  "between scans": (before(PROGRESSIVE, b"\xff\xda", b"junk", 3), PROGRESSIVE),
  "before a table": (before(BASELINE, b"\xff\xc4", b"junk", 2), BASELINE),
  "before a restart": (before(RESTARTS, b"\xff\xd1", b"junkjunk"), RESTARTS),
  "no end marker": (BASELINE[:-2], BASELINE),
  "JFIF version": (BASELINE.replace(b"JFIF\0\1\1", b"JFIF\0\5\1"), BASELINE),
  "scan parameters": (BASELINE[: _DATA - 3] + bytes(3) + BASELINE[_DATA:], BASELINE),
}
DAMAGED = {
  "cut": BASELINE[:-3],
  "cut and ended": BASELINE[:-30] + END,
  "cut and ended after stray bytes": before(BASELINE, b"\xff\xdb", b"zz")[:-40] + END,
  "zeros inside": BASELINE[:-200] + bytes(100) + BASELINE[-100:],
  "scans missing": PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")],
  "progressive without end": PROGRESSIVE[:-2],
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_picture_is_used_bit_for_bit(name):
  data, clean = WHOLE[name]
  with pytest.raises(ValueError):
    jpeg_repair.simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
  expected = image_ops.decode_image(clean)
  np.testing.assert_array_equal(image_ops.decode_image(data), expected)


@pytest.mark.parametrize("name", DAMAGED)
def test_missing_data_stays_a_defect(name):
  with pytest.raises(image_ops.ImageError, match="damaged or truncated JPEG"):
    image_ops.decode_image(DAMAGED[name])


def test_number_of_decodings_is_bounded(monkeypatch):
  tries = []

  def decode(data, **_):
    tries.append(len(data))
    raise ValueError("Corrupt JPEG data: 1 extraneous bytes before marker 0xd1")

  monkeypatch.setattr(jpeg_repair.simplejpeg, "decode_jpeg", decode)
  stray = b"\xff\xd8\xff\xda\0\2" + b"abc\xff\xd1" * 1000
  for pixels, most in ((64, 9), (100_000_000, 3), (10**9, 2)):
    tries.clear()
    with pytest.raises(ValueError, match="1 extraneous"):
      jpeg_repair.decode(stray, pixels)
    assert len(tries) == most
