"""A study says how efficient each point is, and where and why a network dominates."""

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.scale import study


def entry(ici, compute=1.0):
  times = {"compute": compute, "hbm": 0.1, "ici": ici, "dcn": 0.0}
  step = max(times.values())
  gather = {"kind": "all-gather", "axis": "fsdp", "network": "ici", "bytes": 5}
  reduce = {"kind": "all-reduce", "axis": "data", "network": "ici", "bytes": 3}
  return {
    "times_s": times, "bound": "ici" if ici > compute else "compute", "chips": 4,
    "devices": 4, "examples_per_s": 4 / step, "mfu_ceiling": compute / step,
    "collectives": [reduce, gather], "notes": [], "traps": [],
  }  # fmt: skip


def test_the_first_point_where_a_network_dominates_is_marked_with_the_reason():
  config = RunConfig.from_config_dict(config_file.load("miras_7b_stage2:size=tiny"))
  times = iter([0.5, 0.9, 2.0, 4.0])  # of the network; compute takes 1
  made = study.run("masks", config, ["v5e:2x2"], lambda *_: entry(next(times)))
  why = "ici: all-gather over fsdp"
  assert [e.get("dominates") for e in made] == [None, None, why, None]
  assert [e["efficiency"] for e in made] == [1.0, 1.0, 0.5, 0.25]


def test_each_encoder_is_weighed_with_its_parameters():
  config = RunConfig.from_config_dict(config_file.load("miras_7b_stage2:size=tiny"))
  seen = []

  def one(config, name):
    seen.append(config.model.encoder)
    return entry(0.5)

  made = study.run("encoder", config, ["v5e:2x2"], one)
  assert seen == ["dual", "shared", "sam_only"]
  counts = [float(e["notes"][0].split()[0]) for e in made]
  assert counts == sorted(counts, reverse=True)
  assert made[1]["label"] == "shared v5e:2x2"
