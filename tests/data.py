"""Where the labelled imagery lies that is no part of the repository."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("DATA_ROOT", Path(__file__).parents[2] / "shared" / "data"))

needs_data = pytest.mark.skipif(
    not DATA.exists(), reason=f"no labelled imagery in {DATA}; set DATA_ROOT to its folder"
)
