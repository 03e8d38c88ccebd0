"""`--search`: the fastest choices by the memory model, the first of them compiled.

What the model says cannot fit is never compiled (`planning/search.py`).
"""

from miras_jax.errors import UserError
from miras_jax.planning import choice, plan_file, search, topology

SHOWN = 6


def run_all(config, names, options):
  """Entries of `run` on each topology, as the options of the command say."""
  if options.write and len(names) > 1:
    raise UserError(f"--write={options.write} is of one topology, not {len(names)}")
  entries = []
  for name in names:
    entries += run(
      config, name, compile_best=0 if options.estimate else options.compile,
      cached=options.cached, effort=options.effort, write=options.write,
    )  # fmt: skip
  return entries


def run(config, name, *, compile_best=1, cached=False, effort="", write=""):
  """Entries of the best configurations on one topology, the compiled ones first.

  write: file for the best, as `mesh.plan` reads it; of those compiled the first that
  fits, where any was compiled.
  """
  place = topology.hardware(name)
  # What is written has to be the config's own training: a plan keeps its batch.
  found = search.candidates(config, place, cached=cached, exact=bool(write))
  if not found:
    raise UserError(choice.undivided(config, place.name, place.num_devices))
  best = search.fitting(found, place)[:SHOWN]
  made = [_compiled(one, name, cached, effort) for one in best[:compile_best]]
  chosen, entry = _best(best, made) if write else (best[0], best[0].entry)
  why = search.reasons(found, chosen)
  print(f"{name}, the fastest first, by conversations a second without any overlap:")
  print(f"  {search.text_of(chosen.config)}")
  why += _with_cache(config, place, chosen, cached, exact=bool(write))
  print("".join(f"  {reason}\n" for reason in why), end="")
  if write:
    plan_file.write(write, chosen, entry, why, cached=cached)
    print(f"--config.mesh.plan={write} takes it")
  return [*made, *(one.entry for one in best)]


def _with_cache(config, place, chosen, cached, exact):
  """What features of a cache would change: one reason, or none where they are meant."""
  if cached:
    return []
  found = search.candidates(config, place, cached=True, exact=exact)
  best = next((one for one in found if one.fits), None)
  if best is None:
    return []
  faster = chosen.seconds / best.seconds - 1
  text = search.text_of(best.config)
  return [f"with --cached (`miras data cache`): {text}: {faster:.0%} faster"]


def _best(best, made):
  """(the choice to write, the entry that says it fits)."""
  if not made:
    return best[0], best[0].entry
  for chosen, entry in zip(best, made, strict=False):
    if entry["fits"]:
      return chosen, entry
  raise UserError(
    f"none of the {len(made)} compiled fits, nothing is written; --compile="
    f"{len(made) + 1} compiles one more, --estimate takes the formulas' word"
  )


def _compiled(one, name, cached, effort):
  from miras_jax.scale.compile import compile_one

  made = compile_one(one.config, name, cached=cached, effort=effort)
  return made | {"label": one.entry["label"]}
