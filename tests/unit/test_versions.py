"""Our own version, and versions of what meets strangers' bytes below which a hole is known."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import app

LEAST = {
    "h11": "0.16",
    "onnx": "1.21",
    "pillow": "12.3",
    "python-multipart": "0.0.31",
    "starlette": "1.3.1",
}
"""A scanner of known holes needs a network, and without one it finds nothing and says so."""


def numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]


@pytest.mark.parametrize("package", LEAST)
def test_it_is_new_enough(package: str) -> None:
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text()
    [pinned] = re.findall(rf"(?im)^{re.escape(package)}==(\S+)$", pins)
    assert numbers(version(package)) >= numbers(LEAST[package])
    assert numbers(pinned) >= numbers(LEAST[package])


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+) - (?:unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == app.__version__
