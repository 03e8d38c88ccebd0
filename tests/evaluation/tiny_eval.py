"""`miras eval` of the tiny random model: a command for tests of whole processes.

python -m tests.evaluation.tiny_eval --checkpoint=x --data=DIR --out=DIR ...
"""

import json
import os
import time
import types

from miras_jax import options
from miras_jax.config.run import RunConfig
from miras_jax.evaluation import command, scoring
from miras_jax.inference import conversation, devices
from tests import prist_files, tiny_loaded

OPTIONS = ("--checkpoint=x", "--batch_size=4", "--max_new_tokens=6", "--examples=2")


def load(args):
  """What `devices.load` gives; without --mesh on one device."""
  from tests.inference.test_devices import on_mesh

  mesh = args.mesh and ",".join(f"{k}:{v}" for k, v in args.mesh.sizes.items())
  found = on_mesh(mesh) if mesh else tiny_loaded.loaded()
  config = types.SimpleNamespace(to_json=lambda: json.dumps({"steps": 1}))
  return found._replace(config=config, step=7)


def stand_in(setattr=setattr):
  """The command finds the tiny model at any checkpoint."""
  setattr(devices, "load", load)
  setattr(command, "read_config", lambda checkpoint: RunConfig())
  setattr(command, "find_step", lambda checkpoint: 7)
  setattr(command, "find_identity", lambda checkpoint: "abc")
  setattr(conversation, "THRESHOLD", 1.8)  # random masks: a half of the pixels


def main(argv):
  stand_in()
  if seconds := float(os.environ.get("EVAL_SLOW_S", 0)):  # a job, so as to be cut off
    work = scoring.Scorer.job
    slow = lambda *args: time.sleep(seconds) or work(*args)  # noqa: E731
    scoring.Scorer.job = slow
  return command.main([*OPTIONS, *argv])


def write_data(root, count=10):
  """Conversations of one and of two rounds about pictures of their own."""
  root.mkdir(parents=True)
  records = []
  for i in range(count):
    record = prist_files.record(img_id=f"{i}.png")
    if i % 2:
      record |= {"dialogue": 2 * record["dialogue"], "focus": ["cup", "cup"]}
    records.append(record)
  prist_files.write(root, records)
  label = (root / "masks" / "a.json").read_text()
  for i in range(count):
    photo = prist_files.encode(prist_files.photo(seed=i))
    (root / "images" / f"{i}.png").write_bytes(photo)
    (root / "masks" / f"{i}.json").write_text(label)
  return root


if __name__ == "__main__":
  options.run(main)
