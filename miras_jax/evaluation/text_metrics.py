"""Text metrics of the answers: BLEU-4, ROUGE-L, Dist-1 and Dist-2.

sacrebleu and rouge-score are imported when needed; a metric whose package is absent is
left out of the result. Control tokens such as [SEG] are plain words here, alike on both
sides.
"""

import importlib.util
import math

import numpy as np

from miras_jax.evaluation import metrics

ORDER = 4  # BLEU-4


def text_metrics(answers, references, image_N, *, resamples=1000, seed=0):
  """{metric: {"value", "low", "high", "n"}} over pairs of answer and reference.

  `image_N` names the image of each pair: intervals resample images. Dist-n is no ratio
  of sums over images (a resample repeats its n-grams), so it comes without interval.
  """
  if not answers:
    return {}
  out = {}
  if importlib.util.find_spec("sacrebleu"):
    out["bleu4"] = _bleu(answers, references, image_N, resamples, seed)
  if importlib.util.find_spec("rouge_score"):
    scores_N = _rouge_l(answers, references)
    columns = {"rouge_l": (scores_N, np.ones_like(scores_N))}
    out |= metrics.summarise(columns, image_N, resamples=resamples, seed=seed)
  for n in (1, 2):
    value, total = distinct(answers, n)
    out[f"dist{n}"] = {"value": value, "low": None, "high": None, "n": total}
  return out


def distinct(texts, n):
  """(distinct n-grams / n-grams, number of n-grams); Li et al. 2016, corpus level."""
  grams = []
  for text in texts:
    words = text.lower().split()
    grams += list(zip(*(words[i:] for i in range(n)), strict=False))
  return (len(set(grams)) / len(grams) if grams else None), len(grams)


def _rouge_l(answers, references):
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
  pairs = zip(references, answers, strict=True)
  return np.array([scorer.score(ref, hyp)["rougeL"].fmeasure for ref, hyp in pairs])


def _bleu(answers, references, image_N, resamples, seed):
  """Corpus BLEU of sacrebleu, 0 to 1; resampled from per-answer n-gram counts."""
  import sacrebleu

  scorer = sacrebleu.BLEU(effective_order=True)
  rows = []
  for answer, reference in zip(answers, references, strict=True):
    score = scorer.sentence_score(answer, [reference])
    rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
  ids, inverse_N = np.unique(np.asarray(image_N), return_inverse=True)
  sums_GS = np.zeros((len(ids), 2 * ORDER + 2))
  np.add.at(sums_GS, inverse_N, np.array(rows, float))
  rng = np.random.default_rng(seed)
  draws_RG = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), resamples)
  low, high = np.percentile([_bleu_of(s) for s in draws_RG @ sums_GS], (2.5, 97.5))
  value = sacrebleu.corpus_bleu(answers, [references]).score / 100
  return {"value": value, "low": float(low), "high": float(high), "n": len(answers)}


def _bleu_of(sums_S):
  """BLEU from summed counts, totals and lengths; "exp" smoothing as sacrebleu."""
  counts, totals = sums_S[:ORDER], sums_S[ORDER : 2 * ORDER]
  sys_len, ref_len = sums_S[-2:]
  if not counts.any() or not totals.all():
    return 0.0
  logs, smooth = [], 1.0
  for count, total in zip(counts, totals, strict=True):
    if not count:
      smooth *= 2
      count = 1 / smooth
    logs.append(math.log(count / total))
  brevity = 1.0 if sys_len >= ref_len else math.exp(1 - ref_len / sys_len)
  return brevity * math.exp(sum(logs) / ORDER)
