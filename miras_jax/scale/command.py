"""Compiles a run's program for TPUs that are not there: memory, FLOPs, communication.

  miras scale --config=configs/miras_7b_stage2.py --topology=v5e:4x4 --out=scale
  miras scale --config=configs/miras_7b_stage2.py:size=13b \\
      --topology=v5e:8x8,v5p:2x2x4 --mesh=data=4,fsdp=-1 --per_chip=2 --out=scale
  miras scale --config=configs/miras_7b_stage2.py --topology=v5e:4x4 --search \\
      --write=plan.json      # which --config.mesh.plan=plan.json of miras train reads
  miras scale --config=configs/miras_7b_stage2.py --study=chips --topology=v5e:4x4 \\
      --estimate --out=scale
  miras scale --config=configs/prist_quickstart.py --study=ladder --measure \\
      --config.data.dir=data/quickstart --out=ladder
  miras scale --check          # the committed numbers of the 7B step: CI's guard

--topology   slices that XLA's TPU compiler knows, e.g. v5e:4x4, v5p:4x4x4, v6e:16x16;
             a number more is a count of slices: v5e:16x16x4. Needs libtpu, no TPU.
             With --estimate also GPUs: h100:8x4, four machines of eight
--program    train (default), eval, cache, and those of an answer: encode, prefill,
             decode, read; several by comma. --search and --estimate are of train alone
--weights    trained (default) or int8, of the programs of an answer
--mesh       sizes of mesh axes, one may be -1; default: the config's
--cached     the encoders' features come from `miras data cache`
--per_chip   examples of a micro-batch on each batch shard; default: the config's batch
--search     the best meshes, remat policies, accumulations and packings (up to the
             config's data.pack) by a memory model, in conversations a second, and why
             not others; the first --compile=N of them compiled. --write=FILE keeps the
             best as a plan, of as many conversations a step as the config's
--save-executable=DIR   compiles the train and probe step of the config, on its data,
             for --topology (local: the devices of this machine) and keeps them where
             `miras train --executable=DIR` looks for them
--study      chips, size, resolution, encoder, length or masks: one plot and table of
             its own; ladder with --measure: trains --rungs=5 small models of growing
             width, depth and data, the last to --budget=8e12 FLOPs, and fits loss and
             cIoU against FLOPs (with --estimate: lists them). Run again, it goes on
--estimate   by the model's formulas alone: nothing is compiled, no libtpu is needed
--breakdown  HBM traffic, FLOPs and least time by module, pass and kind of operation;
             with --measure the time that a profile has
--measure    times the step on this machine's devices beside the bound
--effort     O1 compiles in less time, for a first look: at 7B the same bytes sent,
             memory within 7 %, but up to 2.6 times the HBM traffic: a bound by memory
             may be none (default: what the trainer compiles with)
--examples, --epochs   for the chip-hours: conversations (images of cache); default:
             the config's own steps
--out        scale.json and scale.html are written there
"""

import dataclasses
import json
import pathlib
import re

from miras_jax import logs
from miras_jax.checkpoint import workdir
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.inference.prepare import WEIGHTS
from miras_jax.options import Parser
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import choice, topology
from miras_jax.scale import report, roofline
from miras_jax.scale.compile import EFFORTS, compile_one
from miras_jax.scale.programs import PROGRAMS


def main(argv):
  """`miras scale ...`; see the module's head."""
  argv, fields = config_file.split_fields(argv)
  options = _parser().parse_args(argv)
  logs.to_stderr()
  _refuse(options)
  if options.check:
    from miras_jax.scale import guard

    return guard.main(update=options.update)
  if not options.config:
    raise UserError("miras scale: --config=... is missing (see miras scale --help)")
  config = config_file.read(options.config, fields)
  if options.study == "ladder":
    return _ladder(options, config)
  if options.save_executable:
    from miras_jax.scale import ahead

    config = dataclasses.replace(config, mesh=_mesh(options.mesh, config.mesh))
    folder = options.save_executable
    return ahead.main(config, options.topology, folder, effort=options.effort)
  entries = _entries(options, config)
  for entry in entries:
    entry["chip_hours"] = roofline.chip_hours(entry, _examples(options, config, entry))
  print(report.table(entries))
  if options.breakdown:
    print("\n".join(report.breakdowns(entries)))
  if options.out:
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=2, allow_nan=False)
    (folder / "scale.json").write_text(text + "\n", encoding="utf-8")
    report.write_html(folder / "scale.html", entries)
    print(f"{folder}/scale.json, {folder}/scale.html")
  return 0


def _refuse(options):
  """UserError for options that would be passed over, and for where nothing can be
  written: before the work, not after it."""
  programs = options.program.split(",")
  for name in programs:
    if name not in PROGRAMS:
      raise UserError(f"--program={name}: there are {', '.join(PROGRAMS)}")
  counted = programs == ["train"]
  search, estimate = options.search, options.estimate
  useless = (
    (options.update and not options.check, "--update wants --check"),
    (options.write and not search, "--write keeps the best of --search: add it"),
    (not counted and search, "--program is not for --search"),
    (not counted and estimate, "--program is not for --estimate"),
    (options.mesh and search, "--mesh is what --search looks for"),
    (options.per_chip and search, "--per_chip is what --search looks for"),
    (options.breakdown and estimate, "--breakdown wants a compiled program, which"
                                     " --estimate has none of"),
  )  # fmt: skip
  for is_given, text in useless:
    if is_given:
      raise UserError(f"miras scale: {text}")
  if options.write:
    workdir.writable(options.write)
  if options.out and pathlib.Path(options.out).is_file():
    raise UserError(f"--out={options.out}: is a file; name a folder")


def _ladder(options, config):
  """Trains or lists the ladder; writes ladder.json and ladder.html."""
  from miras_jax.scale import ladder, ladder_report

  if not options.out or options.measure == options.estimate:
    raise UserError(
      "--study=ladder trains models: it wants --measure and --out=DIR"
      " (--estimate in place of --measure lists them)"
    )
  folder = pathlib.Path(options.out)
  found = ladder.run(
    config, folder, budget=options.budget or ladder.BUDGET,
    rungs=options.rungs, train_them=options.measure,
  )  # fmt: skip
  print(ladder_report.table(found))
  if options.measure:
    ladder_report.write(folder, found)
    print(f"{folder}/ladder.json, {folder}/ladder.html")
  return 0


def _examples(options, config, entry):
  """How many the chip-hours are for; 0: unknown. A cache reads every image once; what
  answers is asked as often as `--examples` says."""
  if entry["program"] not in ("train", "eval"):
    return options.examples
  own = config.steps * config.batch_size * config.data.pack
  return options.examples * options.epochs or own


def _entries(options, config):
  if options.measure:
    from miras_jax.scale import measure

    config = dataclasses.replace(config, mesh=_mesh(options.mesh, config.mesh))
    return [measure.measure(config, steps=options.steps, profiled=options.breakdown)]
  names = topology.split_names(options.topology or "")
  for name in names:
    topology.parse(name)
  if options.study:
    from miras_jax.scale import study

    return study.run(options.study, config, names, _one_by(options))
  if options.search:
    from miras_jax.scale import search

    return search.run_all(config, names, options)
  one = _one_by(options)
  return [one(config, name, p) for name in names for p in options.program.split(",")]


def _one_by(options):
  """(config, topology name, program) -> entry, as the options say."""

  def one(config, name, program="train", **changes):
    if options.mesh and "mesh" not in changes:
      changes["mesh"] = _mesh(options.mesh, config.mesh)
    elif config.mesh.plan:
      config = _planned(config, name, options.cached)
    if options.estimate:
      from miras_jax.planning import model

      changes |= {"per_chip": options.per_chip, "cached": options.cached}
      return model.estimate(config, name, **changes)
    changes |= {"per_chip": options.per_chip, "cached": options.cached}
    changes["weights"] = options.weights
    return compile_one(config, name, program, effort=options.effort, **changes)

  return one


def _planned(config, name, cached):
  """The config as its `mesh.plan` lays it over a topology; says how."""
  place = topology.hardware(name)
  config, lines = choice.for_place(config, place, cached=cached)
  print("\n".join(lines))
  return config


def _mesh(text, own):
  """The MeshConfig `own` with the sizes of "data=4,fsdp=-1"; as it is without any."""
  if not text:
    return own
  sizes = dict.fromkeys(mesh_lib.AXES, 1)
  for item in text.split(","):
    name, _, size = item.partition("=")
    if name not in mesh_lib.AXES or not re.fullmatch("-?[0-9]{1,9}", size):
      raise UserError(
        f"--mesh={text}: want AXIS=SIZE of {', '.join(mesh_lib.AXES)} by comma"
      )
    sizes[name] = int(size)
  return dataclasses.replace(own, plan="", **sizes)


def _parser():
  parser = Parser(prog="miras scale", description=__doc__)
  parser.add_argument("--config", default="")
  parser.add_argument("--topology", default="")
  parser.add_argument("--program", default="train")
  parser.add_argument("--weights", default=WEIGHTS[0], choices=WEIGHTS)
  parser.add_argument("--mesh", default="")
  parser.add_path("--out", default="")
  parser.add_number("--per_chip", 0, least=0)
  parser.add_number("--examples", 0, least=0)
  parser.add_number("--epochs", 1)
  parser.add_number("--steps", 5, help="timed by --measure")
  parser.add_number("--compile", 1, least=0, help="of --search's best")
  parser.add_argument("--study", default="")
  parser.add_path("--write", default="", help="file for the best of --search")
  parser.add_path("--save-executable", default="", metavar="DIR")
  parser.add_argument("--effort", default="", choices=EFFORTS)
  parser.add_argument("--budget", type=float, default=0.0, help="FLOPs of a ladder")
  parser.add_argument("--rungs", type=int, default=5, help="of a ladder")
  flags = "search estimate measure cached breakdown check update"
  for name in flags.split():
    parser.add_argument(f"--{name}", action="store_true")
  return parser
