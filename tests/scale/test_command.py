"""The command's options, mistakes and outputs; nothing is compiled here."""

import json

import pytest

from miras_jax.errors import UserError
from miras_jax.planning import topology
from miras_jax.scale import command, guard, weigh
from tests.scale import snippets

KEYS = {
  "topology", "devices", "mesh", "fits", "hbm_bytes", "hbm_capacity", "flops",
  "flops_analytic", "hbm_traffic", "collectives", "step_time_bound_s", "mfu_ceiling",
}  # fmt: skip
SMALL = "--config=miras_7b_stage2:size=tiny"


def test_estimates_write_the_promised_keys_and_a_page(tmp_path, capsys):
  arguments = [SMALL, "--topology=v5e:2x2,4x4", "--estimate", f"--out={tmp_path}"]
  assert command.main(arguments) == 0
  entries = json.loads((tmp_path / "scale.json").read_text())
  assert [e["topology"] for e in entries] == ["v5e:2x2", "v5e:4x4"]
  assert all(e.keys() >= KEYS for e in entries)
  page = (tmp_path / "scale.html").read_text()
  assert "v5e:4x4" in page and 'src="data:image/png' in page
  assert "v5e:4x4" in capsys.readouterr().out


@pytest.mark.parametrize(
  "name, generation, shape, slices",
  [("v5e:4x4", "v5e", (4, 4), 1), ("v5e:16x16x4", "v5e", (16, 16), 4),
   ("v5p:8x8x16", "v5p", (8, 8, 16), 1), ("v5p:4x4x4x2", "v5p", (4, 4, 4), 2)],
)  # fmt: skip
def test_a_number_behind_the_shape_counts_slices(name, generation, shape, slices):
  assert topology.parse(name) == (generation, shape, slices)


@pytest.mark.parametrize(
  "cloud, ours",
  [
    ("v5litepod-16", ["v5e:4x4"]),
    ("v5e-8,8x8", ["v5e:2x4", "v5e:8x8"]),
    ("v6e-256", ["v6e:16x16"]),
    ("v5p-128", ["v5p:4x4x4"]),  # the cloud counts cores, two a chip
    ("v4-32", ["v4:2x2x4"]),
  ],
)
def test_a_slice_by_its_cloud_name_is_that_slice(cloud, ours):
  assert topology.split_names(cloud) == ours


@pytest.mark.parametrize(
  "arguments, words",
  [
    ([SMALL, "--topology=v5litepod-17"], "topology 'v5litepod-17'.*v5e:{1x1"),
    ([SMALL, "--topology=v5e:3x3"], "v5e:3x3.*4x4"),
    ([SMALL, "--topology="], "empty"),
    ([SMALL, "--topology=v5e:4x4", "--estimate", "--mesh=fdsp=4"], "fdsp.*fsdp"),
    ([SMALL, "--topology=v5e:4x4", "--estimate", "--mesh=fsdp=3"], "16 device.*fits"),
    ([SMALL, "--topology=v5e:4x4", "--study=chip"], "study=chip.*chips"),
    ([SMALL, "--topologie=v5e:4x4"], "did you mean '--topology'"),
    (["--topology=v5e:4x4"], "--config"),
    ([SMALL, "--topology=v5e:4x4", "--mesh=data=--4"], "want AXIS=SIZE"),
    ([SMALL, "--topology=v5e:4x4", "--program=foo", "--estimate"], "foo: there are"),
    ([SMALL, "--topology=v5e:4x4", "--program=eval", "--estimate"], "not for --est"),
    ([SMALL, "--topology=v5e:4x4", "--estimate", "--breakdown"], "a compiled program"),
    ([SMALL, "--topology=v5e:4x4", "--search", "--mesh=data=4"], "--search looks for"),
    ([SMALL, "--topology=v5e:4x4", "--study=chips", "--write=x"], "--search: add it"),
    ([SMALL, "--topology=v5e:4x4", "--search", "--compile=-3"], "'-3': want 0 or more"),
    ([SMALL, "--topology=v5e:4x4", "--search", "--write=/"], "is a folder"),
    (["--update"], "wants --check"),
    ([SMALL, "--topology=v5e:4x4", "--estimate", "--config.data.max_len=5"], "alone"),
  ],
)
def test_a_mistake_is_one_line(arguments, words):
  with pytest.raises(UserError, match=words):
    command.main(arguments)


def test_a_missing_compiler_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install.*libtpu"):
    topology.describe("v5e:4x4")


def test_a_program_that_is_too_large_names_its_largest_buffers():
  found = weigh.too_large(snippets.OOM)
  assert not found["fits"] and found["hbm_bytes"] > 15.75 * 2**30
  first, second = found["largest_buffers"]
  assert (first["bytes"], second["bytes"]) == (8 * 2**30, 512 * 2**20)
  assert "dynamic_update_slice" in first["op_name"]
  assert weigh.too_large(snippets.TEMPORARIES)["hbm_bytes"] == int(23.26 * 2**30)
  assert weigh.too_large("INTERNAL: something else") is None


BASE = {
  "fits": True, "hbm_bytes": 10 * 2**30, "hbm_traffic": 100 * 2**30, "versions": {},
  "collectives": {"all-gather fsdp": 2**30},
}  # fmt: skip


def test_the_guard_lets_3_percent_pass():
  worse = BASE | {"hbm_bytes": int(10.2 * 2**30)}
  assert guard.compare(BASE, worse) == []


@pytest.mark.parametrize(
  "change, words",
  [
    ({"hbm_bytes": 11 * 2**30}, "peak HBM .*10.0%"),
    ({"hbm_traffic": 110 * 2**30}, "HBM traffic .*10.0%"),
    ({"collectives": {"all-gather fsdp": 2**31}}, "all-gather fsdp .*100.0%"),
    ({"collectives": {"all-gather fsdp": 2**30, "all-reduce fsdp": 2**30}}, "new"),
    ({"fits": False}, "does not fit"),
  ],
)
def test_the_guard_shows_what_got_worse(change, words):
  import re

  lines = guard.compare(BASE, BASE | change)
  assert re.search(words, "\n".join(lines))
