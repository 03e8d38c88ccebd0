import subprocess

import jax

from miras_jax.evaluation import provenance


def git(folder, *words):
  who = ("-c", "user.name=a", "-c", "user.email=a@b.test")
  subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def checkout(folder):
  (folder / "__init__.py").write_text("x")
  git(folder, "init")
  git(folder, "add", ".")
  git(folder, "commit", "-m", "x")
  return folder


def test_what_a_result_comes_from():
  found = provenance.collect(7)
  assert found["seed"] == 7 and found["date"].endswith("+00:00")
  assert found["versions"]["jax"] == jax.__version__
  assert found["device"] == f"{jax.device_count()} {jax.devices()[0].device_kind}"


def test_commit_of_a_checkout_says_whether_files_differ(tmp_path):
  clean = provenance.commit(checkout(tmp_path))
  assert len(clean) == 12 and int(clean, 16) >= 0
  (tmp_path / "__init__.py").write_text("y")
  assert provenance.commit(tmp_path) == f"{clean}-dirty"


def test_copy_inside_another_repository_has_no_commit(tmp_path):
  inner = checkout(tmp_path) / "site-packages"
  inner.mkdir()
  (inner / "__init__.py").write_text("x")
  assert provenance.commit(inner) is None
