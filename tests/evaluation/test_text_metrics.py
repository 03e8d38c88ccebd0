"""Text metrics beside the packages that define them."""

import random
import shutil

import numpy as np
import pytest

from miras_jax.evaluation import cider, meteor, rouge, text_metrics

WORDS = (
  "the a red blue cat dog Dog's sits on mat left of [SEG] . , it 3 two ü 猫".split()
)
needs_meteor = pytest.mark.skipif(bool(meteor.missing()), reason=meteor.missing())


def texts(seed, count):
  rng = random.Random(seed)
  return [" ".join(rng.choices(WORDS, k=rng.randint(0, 18))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_cider_is_that_of_pycocoevalcap(seed):
  package = pytest.importorskip("pycocoevalcap.cider.cider", reason="no pycocoevalcap")
  answers, golds = texts(seed, 12), texts(seed + 100, 12)
  mean, each = package.Cider().compute_score(
    {i: [text] for i, text in enumerate(golds)},
    {i: [text] for i, text in enumerate(answers)},
  )
  np.testing.assert_allclose(cider.scores(answers, golds), each, rtol=1e-12)
  assert cider.scores(answers, golds).mean() == pytest.approx(mean, rel=1e-12)


def test_cider_of_equal_texts_is_ten():
  same = ["a red cup on a table", "the dog in the garden"]
  assert cider.scores(same, same) == pytest.approx([10, 10])


def test_cider_takes_words_without_punctuation_and_signs_of_chinese():
  assert cider.tokenise("The red-brown cup, 红杯.") == "the red brown cup 红 杯"


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_is_that_of_rouge_score(seed):
  package = pytest.importorskip("rouge_score.rouge_scorer", reason="no rouge-score")
  scorer = package.RougeScorer(["rougeL"], use_stemmer=False)
  answers, golds = texts(seed, 40), texts(seed + 100, 40)
  want = [
    scorer.score(gold, answer)["rougeL"].fmeasure
    for gold, answer in zip(golds, answers, strict=True)
  ]
  assert rouge.rouge_l(answers, golds).tolist() == want


@pytest.mark.slow
@needs_meteor
def test_meteor_is_that_of_pycocoevalcap():
  answers = ["a cat sits on mat", "I see two large things.", "[SEG] ."]
  golds = ["the cat sat on the mat", "There are two big things.", "hello world"]
  # What pycocoevalcap 1.2 says of them: each, and all together.
  each, together = [0.37891095552825826, 0.4619522378788078, 0.0], 0.3223241519691384
  with meteor.Meteor() as program:
    counts_NS = program.counts(answers, golds)
    assert program.scores(counts_NS).tolist() == each
    assert program.scores(counts_NS.sum(0, keepdims=True)).tolist() == [together]


def test_meteor_is_left_out_and_said_where_java_is_absent(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: None)
  assert text_metrics.left_out(True)["meteor"] == "no Java"
  found = text_metrics.text_metrics(["a"], ["a"], [0], with_meteor=True, resamples=5)
  assert "meteor" not in found and "cider" in found


def test_meteor_that_breaks_off_is_left_out_and_said(monkeypatch, capsys):
  monkeypatch.setattr(meteor, "missing", lambda: "")
  monkeypatch.setattr(meteor, "_command", lambda: (["true"], None))
  found = text_metrics.text_metrics(["a"], ["a"], [0], with_meteor=True, resamples=5)
  assert "meteor" not in found
  assert "meteor is left out" in capsys.readouterr().err


def test_text_for_meteor_is_one_line_without_its_signs():
  assert meteor._one_line("a ||| b\nc") == "a b c"
