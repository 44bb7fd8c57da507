"""The soak, in short: the service is flat, and the build that leaks is found out."""

from pathlib import Path

import pytest

from tests.hostile.soak import Soak, run

SECONDS = 60


@pytest.mark.slow
def test_the_service_is_flat(tmp_path: Path) -> None:
    seen = run(tmp_path, SECONDS)
    assert seen.statuses.total() > 200
    assert len(seen.statuses) > 3, "nothing hostile was sent"
    assert seen.faults_found() == []


@pytest.mark.slow
def test_the_leaking_twin_is_found_out(tmp_path: Path) -> None:
    [found] = run(tmp_path, SECONDS, leak=True).faults_found()
    assert found.startswith("memory grows by")


def test_the_leaking_twin_serves_as_the_service_does(tmp_path: Path) -> None:
    """Or it would be found out for something else than its leak."""
    seen = run(tmp_path, 4, leak=True)
    assert seen.faults == []
    assert seen.statuses[200] > 10


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (lambda i: (i, 100 + 0.1 * i, 9, 9), "memory grows by 9.9 MiB"),
        (lambda i: (i, 100, 9 + i // 9, 9), "threads grow"),
        (lambda i: (i, 100, 9, 9 + i // 9), "descriptors grow"),
    ],
)
def test_the_judge_sees_growth(sample: object, words: str) -> None:
    assert callable(sample)
    flat = Soak(samples=[(i, 100.0 + i % 3, 9.0, 9.0) for i in range(100)])
    assert flat.faults_found() == []
    [found] = Soak(samples=[sample(i) for i in range(100)]).faults_found()
    assert words in found
