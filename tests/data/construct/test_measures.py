"""What masks measure, as it is written into a prompt."""

import os
import subprocess
import sys

from tests.data.construct import pictures

_PRINT = """
import sys
from tests.data.construct import pictures
print(pictures.read_measures(sys.argv[1], "p000.png").tests())
"""


def test_a_prompt_is_the_same_in_every_process(tmp_path):
  """Things of equal area, too; else a run that goes on would ask anew."""
  root = pictures.make(tmp_path / "p", 1)
  said = {
    subprocess.run(
      [sys.executable, "-c", _PRINT, str(root)],
      env=os.environ | {"PYTHONHASHSEED": seed},
      capture_output=True,
      check=True,
      text=True,
    ).stdout
    for seed in ("1", "2", "3")
  }
  assert len(said) == 1
  areas = [
    thing.area for thing in pictures.read_measures(root, "p000.png").things.values()
  ]
  assert len(set(areas)) < len(areas)
