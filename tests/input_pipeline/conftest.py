"""Tokenizers that several files share."""

import pytest

from input_pipeline.conversation import plain_texts
from input_pipeline.tokenizer import train_bpe
from tests.input_pipeline.dialogue import TURNS
from tests.input_pipeline.fakes import turns


@pytest.fixture(scope="module")
def tokenizer():
  return train_bpe([t for i in range(3) for t in plain_texts(turns(i))], 400)


@pytest.fixture(scope="module")
def bpe():
  return train_bpe(plain_texts(TURNS), 500)
