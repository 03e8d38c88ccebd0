"""Which system is preferred: win rates, and strengths of all of them together.

Strengths are of Davidson's model (JASA 65, 1970), Bradley-Terry with ties: with
strengths p and tie parameter v, i beats j with p_i / s, they tie with v sqrt(p_i p_j) /
s, where s = p_i + p_j + v sqrt(p_i p_j). Suffixes: P pairs of systems, S systems, R
resamples.
"""

from typing import NamedTuple

import numpy as np

from miras_jax.judge import statistics

PRIOR = 0.5  # of each outcome a pair: who wins every time has a finite strength
STEPS = 100
CLOSE = 1e-10


class Contest(NamedTuple):
  """One conversation by two systems. result: 1 the first won, -1 the second, 0 tie."""

  image: str
  first: str
  second: str
  result: int


def win_rate(contests: list[Contest], **options) -> dict:
  """Wins plus half the ties over all contests of the same two systems in one order."""
  results = [c.result for c in contests]
  rate = statistics.mean(
    [(1 + result) / 2 for result in results], [c.image for c in contests], **options
  )
  return rate | {
    "wins": results.count(1),
    "ties": results.count(0),
    "losses": results.count(-1),
  }


def strengths(contests: list[Contest], systems: list[str], *, seed=0, resamples=1000):
  """{"systems": {name: {"value", "low", "high"}}, "tie": v}.

  value: log strength, mean 0 over the systems; a difference of log 3 is three wins to
  one loss. Intervals over images.
  """
  pairs = [(i, j) for i in range(len(systems)) for j in range(i + 1, len(systems))]
  place = {(systems[i], systems[j]): k for k, (i, j) in enumerate(pairs)}
  _, group_N = np.unique([c.image for c in contests], return_inverse=True)
  sums_GK = np.zeros((group_N.max() + 1, 3 * len(pairs)))
  for group, contest in zip(group_N, contests, strict=True):
    names, result = (contest.first, contest.second), contest.result
    if names not in place:
      names, result = names[::-1], -result
    sums_GK[group, 3 * place[names] + 1 - result] += 1
  drawn_RK = statistics.resample(sums_GK, seed, resamples)
  counts_RP3 = np.concatenate([sums_GK.sum(0)[None], drawn_RK])
  counts_RP3 = counts_RP3.reshape(-1, len(pairs), 3)
  log_RS, tie_R = fit(counts_RP3 + PRIOR, pairs, len(systems))
  ends_2S = np.quantile(log_RS[1:], (0.025, 0.975), axis=0)
  if len(sums_GK) < 2:
    ends_2S[:] = np.nan  # one image says nothing of others
  number = statistics.number
  return {
    "systems": {
      name: {"value": number(value), "low": number(low), "high": number(high)}
      for name, value, low, high in zip(systems, log_RS[0], *ends_2S, strict=True)
    },
    "tie": float(tie_R[0]),
  }


def fit(counts_RP3, pairs, systems: int):
  """Maximum likelihood of Davidson's model -> (log strengths (R, S), v (R,)).

  counts_RP3: wins of the first, ties, wins of the second of each pair, all above 0.
  Newton's method on a concave likelihood; each resample is a problem of its own.
  """
  effect_P3K = _effects(pairs, systems)
  total_RP = counts_RP3.sum(-1)
  theta_RK = np.zeros((len(counts_RP3), systems))
  for _ in range(STEPS):
    share_RP3 = _shares(theta_RK, effect_P3K)
    gap_RP3 = counts_RP3 - total_RP[..., None] * share_RP3
    gradient_RK = np.einsum("rpo,pok->rk", gap_RP3, effect_P3K)
    mean_RPK = np.einsum("rpo,pok->rpk", share_RP3, effect_P3K)
    second_RKK = np.einsum(
      "rp,rpo,pok,pol->rkl", total_RP, share_RP3, effect_P3K, effect_P3K, optimize=True
    ) - np.einsum("rp,rpk,rpl->rkl", total_RP, mean_RPK, mean_RPK, optimize=True)
    step_RK = np.linalg.solve(second_RKK, gradient_RK[..., None])[..., 0]
    # A long step could leave the region where the curvature says anything.
    step_RK /= np.maximum(1, np.abs(step_RK).max(-1, keepdims=True))
    theta_RK = theta_RK + step_RK
    if np.abs(step_RK).max() < CLOSE:
      break
  log_RS = np.concatenate([np.zeros((len(theta_RK), 1)), theta_RK[:, :-1]], axis=1)
  return log_RS - log_RS.mean(1, keepdims=True), np.exp(theta_RK[:, -1])


def _effects(pairs, systems):
  """d(log weight of an outcome) / d(parameter), (P, 3, K): the log strengths of all
  systems but the first, whose is 0, and log v."""
  effect_P3S = np.zeros((len(pairs), 3, systems))
  for k, (i, j) in enumerate(pairs):
    effect_P3S[k, 0, i] = effect_P3S[k, 2, j] = 1
    effect_P3S[k, 1, [i, j]] = 0.5
  is_tie_P31 = np.zeros((len(pairs), 3, 1))
  is_tie_P31[:, 1] = 1
  return np.concatenate([effect_P3S[..., 1:], is_tie_P31], axis=-1)


def _shares(theta_RK, effect_P3K):
  """Probability of each outcome of each pair."""
  log_RP3 = np.einsum("rk,pok->rpo", theta_RK, effect_P3K)
  weight_RP3 = np.exp(log_RP3 - log_RP3.max(-1, keepdims=True))
  return weight_RP3 / weight_RP3.sum(-1, keepdims=True)
