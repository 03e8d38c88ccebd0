"""The result in a terminal: a table a question, each number with its interval."""

from input_pipeline.records import MOST_NAME, cut, one_line
from miras_jax.judge import results
from miras_jax.judge.ratings import OVERALL

MOST_NAMED = 10


def show(result: dict, answers, out) -> None:
  """Prints it."""
  for name, judge in result["judges"].items():
    about = f" ({judge['about']})" if "about" in judge else ""
    print(f"{name}{about}: {judge['questions']:,} questions")
    _show_tables(judge)
    _show_order(judge["order"])
    for probe, found in judge["probes"].items():
      print(f"  probe {probe}: {_probe_text(found)}")
  for name, person in result["humans"].items():
    print(f"human {name}:")
    _show_tables(person)
  _show_agreement(result["agreement"])
  lost = results.unjudged(answers)
  for answer in lost[:MOST_NAMED]:
    name = one_line(cut(answer.task.id, MOST_NAME))
    print(f"no judgement: {answer.judge}: {name}: {answer.outcome.problem}")
  if len(lost) > MOST_NAMED:
    print(f"and {len(lost) - MOST_NAMED:,} more: `problem` in {out}")
  print(f"result: {out / results.RESULT}")


def number(m) -> str:
  """ "0.61 [0.55, 0.67]" of an object with value, low, high."""
  if m["value"] is None:
    return "-"
  if m["low"] is None:
    return f"{m['value']:.2f}"
  return f"{m['value']:.2f} [{m['low']:.2f}, {m['high']:.2f}]"


def _show_tables(rater):
  for system, table in rater["scores"].items():
    for name, m in table.items():
      label = "mean of all" if name == OVERALL else name
      print(f"  {label:<22} {number(m):<22} {system}")
  for pair in rater["pairs"]["win_rates"]:
    counts = f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
    print(f"  win rate {number(pair)} of {pair['first']} against {pair['second']}")
    print(f"    {counts}")
  strengths = rater["pairs"]["strengths"]
  if strengths and len(strengths["systems"]) > 2:
    for system, m in strengths["systems"].items():
      print(f"  {'log strength':<22} {number(m):<22} {system}")


def _show_order(order):
  if order:
    first, agree = order["first_position_rate"], order["orders_agree"]
    print(f"  the first answer wins {number(first)} of the decided; 0.5 is fair")
    print(f"  both orders agree in {number(agree)}")


def _probe_text(found):
  if not found["n"]:
    return found["why"]
  return (
    f"scores fall by {number(found['drop'])}; they do not fall in"
    f" {number(found['failed'])} of {found['n']}"
  )


def _show_agreement(agreement):
  for question, found in agreement.items():
    for group, alpha in found["alpha"].items():
      print(f"alpha of {group}, {question}: {number(alpha)} (n={alpha['n']})")
    for kappa in found["kappa"]:
      names = f"{kappa['a']} and {kappa['b']}"
      print(f"kappa of {names}, {question}: {number(kappa)} (n={kappa['n']})")
