"""The recipe of `make train`: each run finds what it needs among the runs before it."""

import re
import subprocess
from pathlib import Path

import pytest

from app.bundle.manifest import load_manifest
from training.config import load_config

ROOT = Path(__file__).parents[2]
BUNDLE = next((ROOT / "models").glob("rooftrace-*"))


@pytest.fixture(scope="module")
def commands() -> str:
    """Return the commands of `make train`; none is run."""
    said = subprocess.run(
        ["make", "--dry-run", "train"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return said.stdout.replace("\\\n", " ")


def test_runs_come_after_those_that_they_need(commands: str) -> None:
    loop = re.search(r"for run in (.*?); do", commands)
    assert loop, commands
    runs = loop[1].split()
    for n, run in enumerate(runs):
        config = load_config(ROOT / "training" / "configs" / f"{run}.toml")
        taught_by = [str(path) for path in config.teacher.checkpoints]
        for needed in [config.network.weights, *taught_by]:
            if needed != "none":
                assert Path(needed).parent.parent.name == "runs"
                assert Path(needed).parent.name in runs[:n], f"{run} needs {needed} before it"


def test_the_members_are_those_of_the_shipped_bundle(commands: str) -> None:
    export = re.search(r"-m training export (.*?) --out", commands)
    assert export, commands
    members = [Path(checkpoint).parent.name for checkpoint in export[1].split()]
    assert members == [member.name for member in load_manifest(BUNDLE).members]
