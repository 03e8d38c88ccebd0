"""Hostile names arrive as they were given: scripts are run, with stand-in programs."""

import functools
import os
import shutil
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from miras_jax.errors import UserError
from miras_jax.launch import command, quote
from tests.launch import cases

HOSTILE = [
  "a b", "it's", 'say "no"', "$(touch PWNED)", "`touch PWNED`", "${HOME}", "$$(X)",
  "a\nb: c", "END", "x\nEND\ntouch PWNED\n", "a; touch PWNED #", "\\", "!!python/x",
  "*", "é\u2028", "- x", "&a", "{{x}}", "%s", "|", "yes", "0o17", "1e3", "",
]  # fmt: skip
TINY = "--config=configs/miras_7b_stage2.py:size=tiny,attention=xla"
# What a word of a container's command becomes: `$(NAME)` is replaced, `$$` is a `$`.
PROGRAM = '#!/bin/bash\nprintf "%s\\0" "$0" "$@" >>"$SEEN"\nexit "${STATUS:-0}"\n'


def launch(kind, *more, text):
  """(text written, the words that `miras train` should get behind its workdir)."""
  fields = ["--config.data.dir=/d", "--config.allow_random=True"]
  fields += ["--config.optim.accumulation=1", "--config.batch_size=64"]
  fields.append(f"--config.data.system={text}")
  return cases.written(kind, TINY, "--workdir=gs://lab/a 'b'", *more, *fields)


def run(script, tmp_path, programs, status="0"):
  """{program: its words} of a script run by bash with stand-ins for programs."""
  folder, seen = tmp_path / "bin", tmp_path / "seen"
  folder.mkdir()
  for name in programs:
    (folder / name).write_text(PROGRAM)
    (folder / name).chmod(0o755)
  (folder / "sleep").symlink_to("/bin/true")
  env = {"PATH": f"{folder}:/usr/bin:/bin", "SEEN": str(seen), "HOME": str(tmp_path)}
  env |= {"SLURM_SUBMIT_DIR": str(tmp_path), "STATUS": status}
  done = subprocess.run(
    ["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True
  )
  assert not (tmp_path / "PWNED").exists()
  words = seen.read_bytes().decode().split("\0")[:-1] if seen.exists() else []
  return done, words


def check(words, text):
  assert f"--config.data.system={text}" in words
  assert "--workdir=gs://lab/a 'b'" in words


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_every_launcher_passes_it_on(text, tmp_path):
  slurm = launch("slurm", "--topology=h100:8x2", text=text)
  done, words = run(slurm, tmp_path, ["srun"])
  assert done.returncode == 0, done.stderr
  check(words, text)
  shutil.rmtree(tmp_path / "bin")
  manifest = launch("gke", "--topology=v6e:4x4", "--image=i", text=text)
  check(_of_kubernetes(_command(manifest)), text)


@pytest.mark.parametrize("text", ["$(touch PWNED)\nEND\ntouch PWNED\n", "it's $HOME"])
def test_a_vms_start_up_script_passes_it_on(text, tmp_path):
  asked = launch("queued", "--topology=v5e:4x4", "--zone=z", "--image=i", text=text)
  keep = asked.replace("trap 'rm -f \"$startup\"' EXIT\n", "")
  done, words = run(keep, tmp_path, ["gcloud"])
  assert done.returncode == 0, done.stderr
  (path,) = [w.partition("startup-script=")[2] for w in words if "startup-script" in w]
  with open(path, encoding="utf-8") as file:
    startup = file.read()
  os.unlink(path)
  inner = tmp_path / "inner"
  inner.mkdir()
  done, words = run(startup.replace("/root", str(inner)), inner, ["docker"])
  assert done.returncode == 0, done.stderr
  check(words, text)


@pytest.mark.parametrize("status, runs", [(0, 1), (1, 1), (42, 3), (137, 3), (125, 3)])
def test_a_vm_starts_a_run_again_that_stopped_but_not_one_with_a_mistake(
  status, runs, tmp_path
):
  asked = launch(
    "queued", "--topology=v5e:4x4", "--zone=z", "--image=i", "--restarts=2", text="x"
  )
  startup = asked.split("<<'END'\n")[1].split("\nEND\n")[0]
  done, words = run(
    startup.replace("/root", str(tmp_path)), tmp_path, ["docker"], str(status)
  )
  assert done.returncode == status
  assert words.count("train") == runs


@pytest.mark.parametrize("text", ["it's $(touch PWNED)", '"; touch PWNED; "', "$$(X)"])
def test_xpk_passes_it_on_through_its_own_shell(text, tmp_path):
  asked = launch(
    "xpk", "--topology=v5e:4x4", "--cluster=c", "--image=i", text=text
  )  # fmt: skip
  done, words = run(asked, tmp_path, ["xpk"])
  assert done.returncode == 0, done.stderr
  (line,) = [w.partition("=")[2] for w in words if w.startswith("--command=")]
  shutil.rmtree(tmp_path / "bin")
  os.unlink(tmp_path / "seen")
  (line,) = _of_kubernetes([line])
  done, words = run(f"({line}) & wait $!", tmp_path, ["miras"])
  assert done.returncode == 0, done.stderr
  check(words, text)


def test_xpk_refuses_a_line_break():
  with pytest.raises(UserError, match="line break, which xpk cannot pass on"):
    launch("xpk", "--topology=v5e:4x4", "--cluster=c", "--image=i", text="a\nb")


@pytest.mark.parametrize("text", ["$(touch PWNED)\nx", "it's", "é\n"])
def test_a_skypilot_task_passes_it_on(text, tmp_path):
  task = yaml.safe_load(launch("sky", "--topology=h100:8", text=text))
  folder = tmp_path / "miras-venv/bin"
  folder.mkdir(parents=True)
  (folder / "miras").write_text(PROGRAM)
  (folder / "miras").chmod(0o755)
  done, words = run(task["run"], tmp_path, [])
  assert done.returncode == 0, done.stderr
  check(words, text)


@pytest.mark.parametrize(
  "option, problem",
  [
    ("--name=Stage 2", "want at most 28 small letters"),
    ("--name=a\nb", "want at most 28 small letters"),
    ("--image=i x", "--image='i x'"),
    ("--queue=q\n", "--queue="),
    ("--volume=a:/b:c", "want NAME:/PATH"),
    ("--config.data.system=a\0b", "control character"),
    ("--config.data.system=a\udcffb", "control character"),
    ("--zone=z", "--zone is not for gke, but for xpk queued"),
    ("--restarts=-1", "want a whole number up to 1000"),
    ("--restarts=９", "want a whole number up to 1000"),
    ("--grace=99999999999999999999", "want a whole number from 1 up to 3600"),
    ("--grace=0", "want a whole number from 1 up to 3600"),
    ("--image=-v", "--image='-v'"),
    ("--service_account=a@p.iam.gserviceaccount.com", "want a name of Kubernetes"),
    ("--reservation=projects/p/reservations/r", "want a name of Kubernetes"),
    ("--volume=a:/x/../etc", "want NAME:/PATH"),
    ("--volume=a:/dev/shm", "/dev/shm is taken"),
  ],
)
def test_what_nothing_can_hold_is_refused_in_one_line(option, problem):
  with pytest.raises(UserError) as found:
    launch("gke", "--topology=v6e:4x4", "--image=i", option, text="x")
  assert problem in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
  "option", ["queue", "namespace", "service_account", "reservation", "volume"]
)
def test_a_name_longer_than_kubernetes_takes_is_refused(option):
  more = ":/x" if option == "volume" else ""
  gke = functools.partial(launch, "gke", "--topology=v6e:4x4", "--image=i", text="x")
  assert "a" * 63 in gke(f"--{option}={'a' * 63}{more}")
  with pytest.raises(UserError, match="at most 63"):
    gke(f"--{option}={'a' * 64}{more}")


def test_two_disks_in_one_place_are_refused():
  disks = ("--volume=a:/mnt/x", "--volume=b:/mnt/x/")
  for more in (
    ("gke", "--topology=v6e:4x4", "--image=i"),
    ("sky", "--topology=h100:8"),
  ):
    with pytest.raises(UserError, match="/mnt/x is taken"):
      launch(*more, *disks, text="x")


def test_home_is_that_of_the_cluster():
  text = launch("slurm", "--topology=h100:8", "--venv=~/my venv", text="x")
  (line,) = [line for line in text.splitlines() if line.startswith("export PATH=")]
  done = subprocess.run(
    ["/bin/bash", "-c", f'{line}; printf %s "$PATH"'],
    env={"HOME": "/home/me", "PATH": "/bin"},
    capture_output=True,
    text=True,
  )
  assert done.stdout == "/home/me/my venv/bin:/bin"


@pytest.mark.parametrize("time", [":::", "24h", "-1"])
def test_a_time_that_slurm_does_not_know_is_refused(time):
  with pytest.raises(UserError, match="want D-HH:MM:SS or HH:MM:SS"):
    launch("slurm", "--topology=h100:8", f"--time={time}", text="x")


def test_a_partition_of_slurm_cannot_end_its_line():
  with pytest.raises(UserError, match="--partition="):
    launch("slurm", "--topology=h100:8", "--partition=a\n#SBATCH --x", text="x")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1), st.text("ab \n'$"))
def test_yaml_gives_back_every_string(words, key):
  document = {"a": words, "b": {key or "k": words[0]}, "c": [1, 2]}
  assert yaml.safe_load(quote.documents(document)) == document


@pytest.mark.parametrize(
  "text", ["y", "no", "1e3", "0o17", "0x1f", "~", "1:20", "a: b"]
)
def test_what_another_yaml_reader_takes_for_a_number_is_quoted(text):
  assert quote.documents({"key": text}) == f'key: "{text}"\n'


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("$()AB\n ")))
def test_kubernetes_gives_back_every_word(words):
  assert _of_kubernetes(quote.kubernetes(words)) == words


def _command(manifest):
  *_, found = yaml.safe_load_all(manifest)
  pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  return pod["containers"][0]["command"]


def _of_kubernetes(words):
  """What a container gets: its rules for `$`, with no variable defined."""
  out = []
  for word in words:
    text, i = "", 0
    while i < len(word):
      two = word[i : i + 2]
      text += "$" if two == "$$" else word[i]
      i += 2 if two == "$$" else 1
      assert two != "$("  # it would be replaced
    out.append(text)
  return out


def test_a_name_comes_from_the_config():
  assert quote.name_from("7B Stage_2 (new)") == "b-stage-2-new"
  assert quote.name_from("…") == "miras"
  assert command.RESTARTS["slurm"] == 0
