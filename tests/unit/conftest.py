"""What tests of the command line share."""

from pathlib import Path

import pytest

from tests.serving import exact_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that the environment names, and a working directory without `.env`."""
    bundle = exact_bundle(tmp_path / "bundle", patch_size=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
    monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
    return bundle
