"""A run notices that photographs or masks are other ones than it was trained on."""

import json

import pytest

from input_pipeline import prist
from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig
from input_pipeline.mixture import mix
from input_pipeline.pipeline import make_pipeline
from input_pipeline.subset import first_records
from input_pipeline.tokenizer import train_bpe
from miras_jax.errors import UserError
from tests.prist_files import encode as encode_image
from tests.prist_files import labelme, photo, record, shape, write

CFG = DataConfig(max_len=192, max_masks=2, sam_size=16, aux_size=8, num_image_tokens=4)


@pytest.fixture
def root(tmp_path):
  return write(tmp_path, [record(), record(answer="Here: [SEG].")])


def read(root):
  return prist.read_dataset(root, "val")


def other_photo(root):
  (root / "images/a.png").write_bytes(encode_image(photo(seed=5)) + b"\0" * 8)


def other_mask(root):
  (root / "masks/a.json").write_text(json.dumps(labelme(shape("cup"), shape("a mug"))))


def no_photo(root):
  (root / "images/a.png").unlink()


@pytest.mark.parametrize("change", [other_photo, other_mask, no_photo])
@pytest.mark.parametrize(
  "wrap", [lambda s: s, lambda s: first_records(s, 1), lambda s: mix([s, s], [1, 1])]
)
def test_another_photograph_or_mask_is_another_fingerprint(root, change, wrap):
  before = wrap(read(root)).files_fingerprint()
  assert wrap(read(root)).files_fingerprint() == before
  change(root)
  assert wrap(read(root)).files_fingerprint() != before


def test_a_run_does_not_go_on_with_other_photographs(root):
  tokenizer = train_bpe(plain_texts(read(root)[0].turns), 400)
  state = make_pipeline(read(root), tokenizer, CFG, batch_size=1).get_state()
  other_photo(root)
  again = make_pipeline(read(root), tokenizer, CFG, batch_size=1)
  with pytest.raises(UserError, match="photographs or masks were .*since"):
    again.set_state(state)
  again.set_state({k: v for k, v in state.items() if k != "files"})
