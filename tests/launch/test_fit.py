"""A run that cannot be is told what could: one line, nothing written."""

import re

import pytest

from miras_jax.errors import UserError
from miras_jax.launch import command, place
from tests.launch import cases

SEVEN = "--config=configs/miras_7b_stage2.py"
TINY = f"{SEVEN}:size=tiny,attention=xla"
GIVEN = ("--config.data.dir=/d", "--config.allow_random=True", "--image=i")


def refusal(*argv, kind="gke", config=TINY, workdir="gs://lab/run", given=GIVEN):
  with pytest.raises(UserError) as found:
    command.main([kind, config, f"--workdir={workdir}", *given, *argv])
  assert "\n" not in str(found.value)
  return str(found.value)


@pytest.mark.parametrize(
  "name, hint",
  [
    ("v5e:4x5", "the nearest is v5e:4x4"),
    ("v5p:8x8x9", "the nearest is v5p:8x8x8"),
    ("v6e:1000x1000", "the nearest is v6e:16x16"),
    ("h100:16", "the nearest is h100:8"),
    ("v5e:0x0", "the nearest is v5e:1x1"),
    ("v9:2x2", "there are v5e:{1x1,2x2,"),
    ("v5e:" + "9" * 5000 + "x2", "unknown topology"),
    ("v5e:4x4,8x8", "a run is on one topology"),
  ],
)
def test_a_topology_that_does_not_exist_names_the_nearest(name, hint):
  assert hint in refusal(f"--topology={name}")


def test_a_slice_too_small_names_the_mesh_that_would_do():
  problem = refusal("--topology=v5e:4x4", "--config.mesh.fsdp=1",
                    "--config.mesh.data=16", config=SEVEN)  # fmt: skip
  assert "7b with mesh data=16 takes about" in problem and "of 15.8 GiB" in problem
  options = re.findall(r"--config\.mesh\.\w+=\d+", problem)
  assert cases.written(
    "gke", SEVEN, "--workdir=gs://lab/r", *GIVEN, "--topology=v5e:4x4", *options,
    "--config.batch_size=160",
  )  # fmt: skip


def test_a_plan_lays_the_run_over_the_slice_as_the_trainer_will():
  run = (SEVEN, "--workdir=gs://lab/r", *GIVEN, "--topology=v5e:4x4")
  with pytest.raises(UserError, match="batch_size=80 does not divide"):
    command.main(["gke", *run])
  text = cases.written("gke", *run, "--config.mesh.plan=auto")
  assert "--config.mesh.plan=auto" in text and "--config.mesh.data" not in text


def test_a_model_too_large_for_the_slice_names_the_slice_that_would_do():
  problem = refusal("--topology=v5e:2x2", config=f"{SEVEN}:size=70b")
  assert "on v5e:2x2; --topology=v5e:" in problem
  asked = re.findall(r"--[\w.]+=[\w:-]+", problem)
  assert cases.written(
    "gke", f"{SEVEN}:size=70b", "--workdir=gs://lab/r", *GIVEN, *asked
  )  # fmt: skip


@pytest.mark.parametrize(
  "options, problem",
  [
    (("--config.mesh.data=3",), "mesh dcn_data=1 data=3 fsdp=1 tensor=1 sequence=1 does"
     " not fit 16 device(s); this fits: --config.mesh.dcn_data=1"),
    (("--config.batch_size=24",), "batch_size=24 does not divide into 16 batch"),
    (("--config.mesh.data=8", "--config.mesh.sequence=2", "--config.data.max_len=513"),
     "mesh.sequence=2 does not divide rows of 513 tokens; set data.max_len=514"),
    (("--config.model.overrides.llama.attention=cudnn",),
     "attention='cudnn' is made for GPU, these devices are TPU; set --config.model"),
  ],
)  # fmt: skip
def test_what_the_trainer_would_refuse_is_refused_here(options, problem):
  single = ("--config.optim.accumulation=1", "--config.batch_size=64")
  assert problem in refusal("--topology=v6e:4x4", *single, *options)


def test_only_the_outer_axis_reaches_over_slices():
  problem = refusal(
    "--topology=v6e:4x4x3", "--config.mesh.dcn_data=2", "--config.mesh.data=24"
  )
  assert problem.endswith("set --config.mesh.dcn_data=3")


def test_slices_and_gpu_nodes_become_the_outer_axis_by_themselves():
  for name in ("slurm.sh", "queued.sh"):
    slices = place.find(cases.CASES[name][1].partition("=")[2]).slices
    assert slices > 1
    assert f"--config.mesh.dcn_data={slices}" in cases.text(name)


@pytest.mark.parametrize(
  "kind, workdir, remedy",
  [
    ("gke", "runs/a", "take a bucket, --workdir=gs://BUCKET/RUN, or a disk"),
    ("gke", "/mnt/data/../etc", "or a disk of the cluster, --volume=NAME:/PATH"),
    ("queued", "/runs/a", "take a bucket, --workdir=gs://BUCKET/RUN"),
    ("gke", "ftp://x/y", "want gs://BUCKET/PATH, or a folder"),
    ("gke", "s3://b/run", "mount the bucket and name the folder, or take gs://"),
  ],
)
def test_a_workdir_that_goes_with_its_machine_is_refused(kind, workdir, remedy):
  volume = ("--volume=data:/mnt/data",) if kind == "gke" else ()
  zone = ("--zone=z",) if kind == "queued" else ()
  topology = "--topology=v6e:4x4"
  assert remedy in refusal(topology, *volume, *zone, kind=kind, workdir=workdir)


@pytest.mark.parametrize(
  "kind, topology, remedy",
  [
    ("slurm", "v5e:4x4", "is for GPU nodes, not for v5e:4x4: take one, e.g."),
    ("queued", "h100:8", "is for TPU slices, not for h100:8: take one, e.g."),
    ("queued", "tpu7x:2x2x2", "not known without Kubernetes; take miras launch gke"),
    ("xpk", "v5e:2x2", "xpk has no device type for v5e:2x2; take miras launch gke"),
    ("xpk", "a100:8", "xpk has no device type for a100:8; take miras launch gke"),
    ("sky", "v5e:4x4x2", "for v5e:4x4x2 take miras launch gke"),
  ],
)
def test_each_launcher_says_what_it_is_not_for(kind, topology, remedy):
  batch = ("--config.batch_size=64", "--config.optim.accumulation=1")
  given = [g for g in GIVEN if kind != "sky" and kind != "slurm" or "image" not in g]
  zone = ("--zone=z",) if kind == "queued" else ()
  asked = (f"--topology={topology}", *batch, *zone)
  assert remedy in refusal(*asked, kind=kind, given=given)


@pytest.mark.parametrize(
  "argv, problem",
  [
    (("kubernetes", "--topology=v5e:4x4"), "no 'kubernetes'; there are gke, queued"),
    (("gke", TINY, "--workdir=gs://b/r"), "--topology=... is missing"),
    (("gke", "--topology=v5e:4x4", TINY), "--workdir=... is missing"),
    (("gke", "--topolgy=v5e:4x4"), "did you mean '--topology'?"),
    (("gke", "--topology=v5e:4x4", TINY, "--workdir=gs://b/r"), "data.dir is empty"),
    (("gke", "--topology=v5e:4x4", TINY, "--workdir=gs://b/r", *GIVEN, "--kueue",
      "--config.batch_size=160"), "name it with --queue=NAME"),
  ],
)  # fmt: skip
def test_a_mistake_in_the_options_is_one_line(argv, problem):
  with pytest.raises(UserError) as found:
    command.main(list(argv))
  assert problem in str(found.value)


def test_paths_that_may_not_be_there_are_named(capsys, tmp_path):
  own = tmp_path / "mine.py"
  own.write_text("from configs.miras_7b_stage2 import get_config\n")
  cases.written(
    "gke", f"--config={own}:size=tiny,attention=xla", "--workdir=/mnt/x/run", *GIVEN,
    "--topology=v6e:2x2", "--volume=x:/mnt/x", "--config.init_from=/mnt/x/start",
  )  # fmt: skip
  said = capsys.readouterr().err
  assert "note: data.dir=/d is in no bucket and on no --volume" in said
  assert f"note: config={own} is in no bucket" in said
  assert "init_from" not in said


@pytest.mark.parametrize(
  "kind, topology, status, taken_for",
  [("gke", "v6e:2x2", 0, "finished"), ("slurm", "h100:8", 42, "failed")],
)
def test_a_status_by_which_a_stopped_run_is_never_started_again_is_refused(
  kind, topology, status, taken_for
):
  given = [g for g in GIVEN if kind == "gke" or "image" not in g]
  problem = refusal(
    f"--topology={topology}", f"--config.stopped_exit_code={status}", kind=kind,
    given=(*given, "--config.batch_size=64", "--config.optim.accumulation=1"),
  )  # fmt: skip
  assert f"would take a run that only stopped for {taken_for}; leave it out" in problem


def test_a_config_made_for_kubernetes_ends_with_0_in_slurm(tmp_path):
  own = tmp_path / "mine.py"
  own.write_text(
    "from configs import miras_7b_stage2\n\n\ndef get_config(arg=''):\n"
    "  c = miras_7b_stage2.get_config('size=tiny,attention=xla')\n"
    "  c.stopped_exit_code = 42\n  return c\n"
  )
  text = cases.written(
    "slurm", f"--config={own}", "--workdir=/r", "--topology=h100:8",
    *GIVEN[:2], "--config.batch_size=64", "--config.optim.accumulation=1",
  )  # fmt: skip
  assert "--config.stopped_exit_code=0" in text


def test_slices_of_one_vm_may_share_a_node_pool():
  batch = ("--config.batch_size=64", "--config.optim.accumulation=1")
  run = ("gke", TINY, "--workdir=gs://lab/r", *GIVEN, *batch)
  assert "exclusive-topology" not in cases.written(*run, "--topology=v6e:2x2x2")
  assert "exclusive-topology" in cases.written(*run, "--topology=v6e:4x4x2")


def test_xpk_has_no_slice_of_one_chip():
  problem = refusal("--topology=v6e:1x1", "--cluster=c", kind="xpk")
  assert "xpk has no device type for v6e:1x1; take miras launch gke" in problem
