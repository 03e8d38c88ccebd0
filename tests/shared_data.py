"""Where the reference data lies, and the marks that skip a test without it.

The folder is `../shared` beside the clone, or what MIRAS_SHARED names. It is not part
of the product: a person with only the clone runs every other test.
"""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("MIRAS_SHARED", ROOT.parent / "shared"))
GOLDEN = SHARED / "golden"
DATA = SHARED / "data"

needs_golden = pytest.mark.skipif(
  not GOLDEN.is_dir(), reason=f"no golden folder at {GOLDEN} (set MIRAS_SHARED)"
)
needs_data = pytest.mark.skipif(
  not DATA.is_dir(), reason=f"no data folder at {DATA} (set MIRAS_SHARED)"
)
