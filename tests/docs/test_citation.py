"""CITATION.cff names this version, and the paper as what to cite."""

import runpy

import setuptools
import yaml

import miras_jax
from tests.docs import commands

CITATION = yaml.safe_load((commands.ROOT / "CITATION.cff").read_text())


def test_it_is_of_the_version_and_licence_that_setup_declares(monkeypatch):
  given = {}
  monkeypatch.setattr(setuptools, "setup", given.update)
  runpy.run_path(str(commands.ROOT / "setup.py"))
  assert str(CITATION["version"]) == given["version"] == miras_jax.__version__
  assert CITATION["license"] == given["license"]


def test_the_paper_is_the_preferred_reference():
  paper = CITATION["preferred-citation"]
  assert paper["identifiers"][0]["value"] == "arXiv:2502.09447"
  assert len(paper["authors"]) == 7
  assert paper["url"].rstrip("/").endswith(paper["doi"].split("/v1/")[1])
  assert CITATION["cff-version"] == "1.2.0"
