"""How long a process waited for a CPU: on a busy machine a limit in seconds is none."""

import pathlib


def waited_s(pid: int) -> float:
  """Seconds that the main thread of a process could have run and did not; 0 where the
  system does not say (Linux does: run and wait time in nanoseconds, and turns)."""
  try:
    text = pathlib.Path(f"/proc/{pid}/schedstat").read_text()
    return int(text.split()[1]) / 1e9
  except (OSError, ValueError, IndexError):
    return 0.0
