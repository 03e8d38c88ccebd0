"""Where the time of a step goes on the devices at hand, from a profiler's trace."""

import collections
import gzip
import json
import pathlib
import tempfile

import jax


def seconds(run, steps) -> dict[str, float]:
  """{name of an HLO instruction: seconds that threads spent in it, a step}.

  run: takes one step and returns its arrays; called `steps` times. Threads that work
  side by side count each, and what waits for a core counts as well: nothing else should
  run on the machine. Operations that hold others (loops, calls) are among them.
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(steps):
        out = run()
      jax.block_until_ready(out)
    found = collections.Counter()
    for path in pathlib.Path(folder).rglob("*.trace.json.gz"):
      for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        name = event.get("args", {}).get("hlo_op")
        if name and "dur" in event:  # in microseconds
          found[name] += 1e-6 * event["dur"] / steps
  return dict(found)
