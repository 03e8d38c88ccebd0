"""Text metrics of the answers: BLEU-4, ROUGE-L, METEOR, CIDEr, Dist-1 and Dist-2.

A metric whose program is absent is left out of the result; `left_out` says which and
why. Control tokens such as [SEG] are plain words here, alike on both sides.

N answers, G images, R resamples, S numbers that a score is made of and that add up.
"""

import importlib.util
import math
import sys

import numpy as np

from miras_jax.evaluation import cider, meteor, metrics, rouge

ORDER = 4  # BLEU-4


def text_metrics(
  answers, references, image_N, *, with_meteor=False, resamples=1000, seed=0
):
  """{metric: {"value", "low", "high", "n"}} over pairs of answer and reference.

  `image_N` names the image of each pair: intervals resample images. Dist-n is no ratio
  of sums over images (a resample repeats its n-grams), so it comes without interval.
  How rare a word is, for CIDEr, is counted over all references, in a resample too.
  with_meteor: where its program is here; that takes half a minute to start.
  """
  if not answers:
    return {}
  out = {}
  if importlib.util.find_spec("sacrebleu"):
    out["bleu4"] = _bleu(answers, references, image_N, resamples, seed)
  plain = [[cider.tokenise(x) for x in side] for side in (answers, references)]
  one_N = np.ones(len(answers))
  columns = {
    "rouge_l": (rouge.rouge_l(answers, references), one_N),
    "cider": (cider.scores(*plain), one_N),
  }
  out |= metrics.summarise(columns, image_N, resamples=resamples, seed=seed)
  if with_meteor and not meteor.missing():
    out |= _meteor(answers, references, image_N, resamples, seed)
  for n in (1, 2):
    value, total = distinct(answers, n)
    out[f"dist{n}"] = {"value": value, "low": None, "high": None, "n": total}
  return out


def left_out(with_meteor: bool) -> dict[str, str]:
  """{metric: why it is not among the results here}."""
  unasked = "" if with_meteor else "not asked for (--meteor)"
  reasons = {"bleu4": "", "meteor": meteor.missing() or unasked}
  if not importlib.util.find_spec("sacrebleu"):
    reasons["bleu4"] = "no sacrebleu"
  return {name: reason for name, reason in reasons.items() if reason}


def distinct(texts, n):
  """(distinct n-grams / n-grams, number of n-grams); Li et al. 2016, corpus level."""
  grams = []
  for text in texts:
    words = text.lower().split()
    grams += list(zip(*(words[i:] for i in range(n)), strict=False))
  return (len(set(grams)) / len(grams) if grams else None), len(grams)


def _bleu(answers, references, image_N, resamples, seed):
  """Corpus BLEU of sacrebleu, 0 to 1; resampled from per-answer n-gram counts."""
  import sacrebleu

  scorer = sacrebleu.BLEU(effective_order=True)
  rows = []
  for answer, reference in zip(answers, references, strict=True):
    score = scorer.sentence_score(answer, [reference])
    rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
  resampled_RS = _resampled(np.array(rows, float), image_N, resamples, seed)
  value = sacrebleu.corpus_bleu(answers, [references]).score / 100
  ends = metrics.ends([_bleu_of(s) for s in resampled_RS], len(set(image_N)))
  return {"value": value, **ends, "n": len(answers)}


def _meteor(answers, references, image_N, resamples, seed):
  """{"meteor": ...}; nothing, and a line that says so, where its program fails."""
  try:
    with meteor.Meteor() as program:
      counts_NS = program.counts(answers, references)
      (value,) = program.scores(counts_NS.sum(0, keepdims=True))
      resampled_RS = _resampled(counts_NS, image_N, resamples, seed)
      ends = metrics.ends(program.scores(resampled_RS), len(set(image_N)))
  except (OSError, ValueError) as error:
    print(f"meteor is left out: {error}", file=sys.stderr)
    return {}
  return {"meteor": {"value": float(value), **ends, "n": len(answers)}}


def _resampled(rows_NS, image_N, resamples, seed):
  """Sums of the rows over images that are drawn at random: (R, S)."""
  ids, inverse_N = np.unique(np.asarray(image_N), return_inverse=True)
  sums_GS = np.zeros((len(ids), rows_NS.shape[1]))
  np.add.at(sums_GS, inverse_N, rows_NS)
  rng = np.random.default_rng(seed)
  draws_RG = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), resamples)
  return draws_RG @ sums_GS


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
