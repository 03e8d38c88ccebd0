"""The files of a run, made from its answers alone: equal answers, equal bytes."""

import collections
import json
import pathlib

from miras_jax.checkpoint import workdir
from miras_jax.judge import ratings, rules, statistics, tasks
from miras_jax.judge.ratings import HUMAN, Answer
from miras_jax.judge.rubric import Rubric

RESULT, SCORES, PAIRS = "judge.json", "scores.jsonl", "pairs.jsonl"


def write(out, result: dict, answers: list[Answer]) -> None:
  """Writes the three files, each whole or not at all."""
  out = pathlib.Path(out)
  scored = (_score_line(a) for a in answers if a.task.kind == tasks.SCORE)
  paired = (_pair_line(a) for a in answers if a.task.kind == tasks.PAIR)
  for name, lines in ((SCORES, scored), (PAIRS, paired)):
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    workdir.write_atomically(out / name, text)
  text = json.dumps(result, indent=1, allow_nan=False) + "\n"
  workdir.write_atomically(out / RESULT, text)


def summarise(answers, people, judges, systems, rubric: Rubric, seed: int) -> dict:
  """The object of judge.json, but for what it was made of.

  answers: of every judge. people: Ratings of persons. judges: in order.
  """
  criteria, names = list(rubric.criteria), [s.name for s in systems]
  options = {"seed": seed}
  given = ratings.of_answers(answers, criteria)

  def tables(rater, some):
    own = [r for r in some if r.rater == rater]
    return {
      "scores": ratings.score_table(own, criteria, **options),
      "pairs": ratings.pair_table(own, names, **options),
    }

  return {
    "rubric": {
      "name": rubric.name,
      "version": rubric.version,
      "sha256": rubric.digest,
    },
    "systems": {s.name: {"sha256": s.digest} for s in systems},
    "judges": {
      judge.name: _about(judge, [a for a in answers if a.judge == judge.name], options)
      | tables(judge.name, given)
      for judge in judges
    },
    "humans": {
      rater.removeprefix(HUMAN): tables(rater, people)
      for rater in dict.fromkeys(r.rater for r in people)
    },
    "agreement": ratings.agree(given + people, criteria, **options),
  }


def unjudged(answers: list[Answer]) -> list[Answer]:
  """Those without a value."""
  return [a for a in answers if a.outcome.value is None]


def _about(judge, answers, options):
  outcomes = [a.outcome for a in answers]
  flaws = collections.Counter(flaw for o in outcomes for flaw in o.flaws)
  without = collections.Counter(o.problem for o in outcomes if o.problem)
  about = {"about": rules.ABOUT} if judge.name == rules.NAME else {}
  return about | {
    "sees_pictures": judge.sees_pictures,
    "served": sorted({name for o in outcomes for name in o.served}),
    "questions": len(outcomes),
    "unjudged": dict(sorted(without.items())),
    "flawed_replies": dict(sorted(flaws.items())),
    "tokens_in": sum(o.tokens_in for o in outcomes),
    "tokens_out": sum(o.tokens_out for o in outcomes),
    "order": _order(answers, options),
    "probes": {name: _probe(name, judge, answers, options) for name in tasks.PROBES},
  }


def _order(answers, options):
  """What the order of the two answers does to the verdict, None without pairs."""
  verdicts = [a for a in answers if a.task.kind == tasks.PAIR and a.outcome.value]
  if not verdicts:
    return None
  results = [(a.task.image, ratings.won(a.task, a.outcome)) for a in verdicts]
  decided = [(image, result > 0) for image, result in results if result]
  agreed = [(task.image, same) for _, task, _, same in ratings.contests(answers)]
  return {
    "first_position_rate": _share(decided, options),
    "orders_agree": _share(agreed, options),
  }


def _probe(name, judge, answers, options):
  """How far the scores fall where they must, and how often they do not."""
  if name == tasks.BLANK and not judge.sees_pictures:
    return {"n": 0, "why": "this judge was shown no pictures"}
  scored = [a for a in answers if a.task.kind == tasks.SCORE and a.outcome.value]
  usual = {(a.task.systems, a.task.id): a for a in scored if not a.task.probe}
  drops = []
  for answer in scored:
    base = usual.get((answer.task.systems, answer.task.id))
    if answer.task.probe == name and base is not None:
      drops.append((answer.task.image, _level(base) - _level(answer)))
  if not drops:
    return {"n": 0, "why": "not asked, or not answered"}
  fooled = [(image, drop <= 0) for image, drop in drops]
  return {
    "n": len(drops),
    "drop": _share(drops, options),
    "failed": _share(fooled, options),
  }


def _level(answer):
  """Mean of the criteria."""
  levels = [v for name, v in answer.outcome.value.items() if name != "reason"]
  return sum(levels) / len(levels)


def _share(rows, options):
  values, images = [float(v) for _, v in rows], [image for image, _ in rows]
  return statistics.mean(values, images, **options)


def _score_line(answer):
  task, outcome = answer.task, answer.outcome
  line = {"judge": answer.judge, "system": task.systems[0], "id": task.id}
  line |= {"probe": task.probe} if task.probe else {}
  return line | _said(outcome)


def _pair_line(answer):
  first, second = answer.task.systems
  line = {"judge": answer.judge, "id": answer.task.id, "first": first}
  return line | {"second": second} | _said(answer.outcome)


def _said(outcome):
  flaws = {"flaws": list(outcome.flaws)} if outcome.flaws else {}
  return (outcome.value or {"problem": outcome.problem}) | flaws
