"""What is written: as it was, valid, of machines that exist, for a run that fits."""

import json
import math
import shlex
import subprocess

import pytest
import yaml

from miras_jax.config import file as config_file
from miras_jax.launch import place
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import model
from tests.launch import cases, jobset_fields

GKE = [name for name in cases.CASES if name.startswith("gke")]
SHELL = [name for name in cases.CASES if name.endswith(".sh")]
# As GKE's pages have them: label of the nodes, and the shapes of their slices.
ACCELERATORS = {
  "tpu-v4-podslice": 3, "tpu-v5-lite-podslice": 2, "tpu-v5p-slice": 3,
  "tpu-v6e-slice": 2, "tpu7x": 3, "nvidia-a100-80gb": 0, "nvidia-h100-80gb": 0,
  "nvidia-h200-141gb": 0,
}  # fmt: skip


def jobset(name):
  *_, found = yaml.safe_load_all(cases.text(name))
  return found


def job_of(name):
  (replicated,) = jobset(name)["spec"]["replicatedJobs"]
  return replicated["replicas"], replicated["template"]["spec"]


def container(name):
  (found,) = job_of(name)[1]["template"]["spec"]["containers"]
  return found


@pytest.mark.parametrize("name", cases.CASES)
def test_the_text_is_the_golden_one(name):
  golden = (cases.GOLDEN / name).read_text(encoding="utf-8")
  assert cases.text(name) == golden, "if it is meant: python -m tests.launch.cases"


@pytest.mark.parametrize("name", GKE)
def test_every_field_is_one_that_jobset_and_kueue_have(name):
  for document in yaml.safe_load_all(cases.text(name)):
    table = jobset_fields.FIELDS[document["kind"]]
    assert not jobset_fields.problems(document, table)


def test_the_table_finds_a_field_that_does_not_exist():
  wrong = jobset(GKE[0])
  wrong["spec"]["failurePolicy"]["rules"][0]["onExitCodes"] = [42]
  del wrong["spec"]["replicatedJobs"][0]["name"]
  assert jobset_fields.problems(wrong, jobset_fields.JOBSET) == [
    ".spec.failurePolicy.rules[0].onExitCodes: no such field",
    ".spec.replicatedJobs[0].name: missing",
  ]


@pytest.mark.parametrize("name", GKE)
def test_kubernetes_takes_the_job_and_its_pods(name):
  kubernetes = pytest.importorskip(
    "kubernetes_validate", reason="pip install kubernetes-validate (the extra `test`)"
  )
  job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}}
  kubernetes.validate(job | {"spec": job_of(name)[1]}, "1.30", strict=True)


@pytest.mark.parametrize("name", GKE)
def test_the_pods_are_as_many_as_the_slices_have_vms(name):
  replicas, job = job_of(name)
  labels = job["template"]["spec"]["nodeSelector"]
  limits = container(name)["resources"]["limits"]
  where = place.find(_option(cases.CASES[name], "topology"))
  assert job["parallelism"] == job["completions"]
  if where.is_tpu:
    shape = labels["cloud.google.com/gke-tpu-topology"].split("x")
    chips = math.prod(map(int, shape))
    assert ACCELERATORS[labels["cloud.google.com/gke-tpu-accelerator"]] == len(shape)
    each = min(chips, 4)
    assert (replicas, job["parallelism"]) == (where.slices, chips // each)
    assert limits == {"google.com/tpu": each}
  else:
    assert ACCELERATORS[labels["cloud.google.com/gke-accelerator"]] == 0
    assert (replicas, job["parallelism"]) == (1, where.slices)
    assert limits == {"nvidia.com/gpu": where.chips_per_slice}


@pytest.mark.parametrize("name", place.NAMES)
def test_every_accelerator_of_the_table_is_one_of_gke(name):
  assert place.NAMES[name].gke in ACCELERATORS


@pytest.mark.parametrize("name", GKE)
def test_the_run_of_the_manifest_fits_by_scales_estimate(name):
  argv, fields = config_file.split_fields(container(name)["command"])
  config = config_file.read(_option(argv, "config"), fields)
  where = place.find(_option(cases.CASES[name], "topology"))
  sizes = mesh_lib.resolve(config.mesh, where.devices)
  assert sizes["dcn_data"] % where.slices == 0
  entry = model.estimate(config, where.name)
  assert entry["fits"] and entry["mesh"] == sizes
  assert entry["batch_size"] == config.batch_size  # nothing had to be rounded


@pytest.mark.parametrize("name", GKE)
def test_a_run_that_saved_and_stopped_is_started_again_and_a_mistake_is_not(name):
  (mistake,) = jobset(name)["spec"]["failurePolicy"]["rules"]
  assert mistake["action"] == "FailJobSet"
  assert mistake["onJobFailureReasons"] == ["PodFailurePolicy"]
  *_, rule = job_of(name)[1]["podFailurePolicy"]["rules"]
  codes = rule["onExitCodes"]
  assert (rule["action"], codes["operator"]) == ("FailJob", "NotIn")
  assert codes["containerName"] == container(name)["name"]
  status = _option(container(name)["command"], "config.stopped_exit_code")
  assert int(status) in codes["values"] and not {0, 1} & set(codes["values"])


def test_gpu_pods_know_where_the_first_of_them_is():
  env = {e["name"]: e.get("value") for e in container("gke_gpu.yaml")["env"]}
  name, (job,) = "miras-7b-stage2", jobset("gke_gpu.yaml")["spec"]["replicatedJobs"]
  assert env["JAX_COORDINATOR_ADDRESS"] == f"{name}-{job['name']}-0-0.{name}:8476"
  assert int(env["JAX_NUM_PROCESSES"]) == job["template"]["spec"]["parallelism"]


def test_kueues_quota_is_what_the_run_takes():
  flavor, cluster, local, job = yaml.safe_load_all(cases.text("gke_tpu.yaml"))
  (group,) = cluster["spec"]["resourceGroups"]
  (quota,) = group["flavors"][0]["resources"]
  assert (quota["name"], quota["nominalQuota"]) == ("google.com/tpu", 32)
  queue = job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
  assert queue == local["metadata"]["name"] == group["flavors"][0]["name"]
  pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  assert flavor["spec"]["nodeLabels"] == pod["nodeSelector"]


@pytest.mark.parametrize("name", SHELL)
def test_every_script_parses(name):
  subprocess.run(["bash", "-n"], input=cases.text(name), text=True, check=True)


@pytest.mark.parametrize("name", ["sky_tpu.yaml", "sky_gpu.yaml"])
def test_the_scripts_of_a_task_parse(name):
  task = yaml.safe_load(cases.text(name))
  for script in (task["setup"], task["run"]):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_slurm_runs_a_process_a_gpu_and_leaves_the_status_as_it_is():
  lines = cases.text("slurm.sh").splitlines()
  options = [line.removeprefix("#SBATCH --") for line in lines if "#SBATCH" in line]
  asked = dict(option.split("=", 1) for option in options if "=" in option)
  assert asked["nodes"] == "4"
  assert asked["gpus-per-node"] == asked["ntasks-per-node"] == "8"
  assert "stopped_exit_code" not in cases.text("slurm.sh")
  assert lines.index("#SBATCH --requeue") < lines.index("set -euo pipefail")


def test_out_writes_the_same_text_into_a_file(tmp_path):
  path = tmp_path / "new" / "slurm.sh"
  printed = cases.written(*cases.CASES["slurm.sh"], f"--out={path}")
  assert printed == f"{path}\n"
  assert path.read_text() == cases.text("slurm.sh")


def _option(words, name):
  found = [w for w in words if w.startswith(f"--{name}=")]
  return found[0].partition("=")[2]


def test_xpk_gets_one_command_that_a_shell_takes_apart_again():
  line = cases.text("xpk.sh")
  command = _option(shlex.split(line, comments=True), "command")
  words = shlex.split(command)
  assert words[:3] == ["exec", "miras", "train"]
  assert json.loads(_option(words, "config.stopped_exit_code")) == 42
