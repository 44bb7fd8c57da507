"""What is doubtful on the whole is held below the threshold, however the rows come."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from app.segmentation import unsure
from app.segmentation.unsure import find_unsure

THRESHOLD, SURE = 0.4, 0.5337


def by_hand(probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Look at each component of the whole map, one by one."""
    labels, count = ndimage.label(probability >= THRESHOLD)
    doubtful = np.zeros_like(probability, np.bool_)
    for label in range(1, count + 1):
        component = labels == label
        rows = np.flatnonzero(component.any(axis=1))
        tall = rows[-1] - rows[0] + 1 > unsure.TALL
        if probability[component].astype(np.float64).mean() < SURE and not tall:
            doubtful |= component
    return doubtful


def blocks(height: int, width: int, seed: int, size: int) -> NDArray[np.float32]:
    """Draw a map of few levels, in blocks, so that components are large and branch out."""
    random = np.random.default_rng(seed)
    levels = random.choice(
        np.array([0.1, 0.5, 0.6, 0.9], np.float32),
        (height // size + 1, width // size + 1),
        p=[0.45, 0.35, 0.19, 0.01],
    )
    return np.kron(levels, np.ones((size, size), np.float32))[:height, :width]


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 40),
    seed=st.integers(0, 999),
    size=st.sampled_from([1, 3]),
    cuts=st.sets(st.integers(1, 59), max_size=12),
    tall=st.sampled_from([5, 1000]),
)
def test_cuts_do_not_matter(
    height: int, width: int, seed: int, size: int, cuts: set[int], tall: int
) -> None:
    probability = blocks(height, width, seed, size)
    edges = [0, *sorted(cut for cut in cuts if cut < height), height]
    maps = [probability[start:stop] for start, stop in pairwise(edges)]
    before, unsure.TALL = unsure.TALL, tall
    try:
        found = list(find_unsure(iter(maps), THRESHOLD, SURE))
        assert [len(rows) for rows in found] == [len(rows) for rows in maps]
        np.testing.assert_array_equal(np.concatenate(found), by_hand(probability))
    finally:
        unsure.TALL = before


def test_rows_wait_no_longer_than_they_must() -> None:
    """A weak component of endless rows is kept once it is tall, and so memory has an end."""
    weak, taken = np.full((64, 8), 0.5, np.float32), 0

    def endless() -> Iterator[NDArray[np.float32]]:
        nonlocal taken
        while True:
            taken += 1
            yield weak

    found = find_unsure(endless(), THRESHOLD, SURE)
    assert not next(found).any()
    assert taken * 64 <= unsure.TALL + 2 * 64
    for _ in range(100):
        next(found)
    assert taken * 64 <= unsure.TALL + 102 * 64


def test_complete_rows_do_not_wait() -> None:
    complete = np.pad(np.full((2, 4), 0.9, np.float32), 1)
    taken = []
    maps = (taken.append(i) or complete for i in range(5))
    found = find_unsure(maps, THRESHOLD, SURE)
    next(found)
    assert taken == [0, 1], "one ahead, to know that there is one"
