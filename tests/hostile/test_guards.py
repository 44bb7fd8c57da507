"""Guards: each is where the table says, and going without it turns its test red."""

from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.hostile.guards import GUARDS, Guard, copied, is_noticed

EACH = pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "-"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("guards"))


@EACH
def test_it_is_there_once_and_in_the_documents(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.line) == 1
    *_, test = guard.test.split("::")
    [row] = [
        line
        for line in (ROOT / "docs" / "reliability.md").read_text().splitlines()
        if line.startswith(f"| {guard.name} |")
    ]
    assert test in row


@pytest.mark.slow
@EACH
def test_a_test_notices_that_it_is_gone(guard: Guard, root: Path) -> None:
    assert is_noticed(root, guard)
