"""The page about clusters: its example prints what it shows; the container it names."""

import pathlib
import re
import shlex

import setuptools

from miras_jax.launch import command, gke, job

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/launch.md").read_text()


def test_the_example_writes_a_file_and_says_what_the_page_shows(tmp_path, capsys):
  example, shown = re.search(r"(miras launch gke .*?)```\n\n```\n(.*?)```", PAGE,
                             re.DOTALL).groups()  # fmt: skip
  _, _, *argv = shlex.split(example.replace("\\\n", " "))
  path = tmp_path / "stage2.yaml"
  assert "--out=stage2.yaml" in argv
  assert (
    command.main([a.replace("--out=stage2.yaml", f"--out={path}") for a in argv]) == 0
  )
  assert capsys.readouterr().err == shown
  assert "kind: JobSet" in path.read_text()


def test_every_launcher_is_on_the_page_with_the_numbers_of_the_code():
  for kind in command.WRITERS:
    assert f"`miras launch {kind}`" in PAGE
  assert f"--config.stopped_exit_code={job.STOPPED}" in PAGE
  assert f"({job.Job.grace_s} s)" in PAGE
  assert all(code >= 128 for code in gke.RESTARTABLE)


def test_the_container_copies_what_is_there_and_installs_an_extra(monkeypatch):
  text = (ROOT / "launch/Dockerfile").read_text()
  kept = (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines()
  copied = [
    w for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for w in line.split()
  ]
  assert copied and all((ROOT / name).exists() for name in copied)
  assert {f"!{name}" for name in copied} == {k for k in kept if k.startswith("!")}
  made = {}
  monkeypatch.setattr(setuptools, "setup", lambda **k: made.update(k))
  exec(compile((ROOT / "setup.py").read_text(), str(ROOT / "setup.py"), "exec"),
       {"__file__": str(ROOT / "setup.py"), "__name__": "setup"})  # fmt: skip
  extras = re.findall(r"EXTRA=(\w+)", text)
  assert set(extras) == {"tpu", "gpu"} <= made["extras_require"].keys()
  assert {p.split(".")[0] for p in made["packages"]} <= set(copied)
