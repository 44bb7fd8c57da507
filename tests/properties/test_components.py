"""However the rows of a mask come, its buildings are the right components of the whole."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from app.segmentation import components
from app.segmentation.components import Rule, find_buildings
from app.segmentation.stream import Band, Building

THRESHOLD = 0.4
BELOW = THRESHOLD - 1 / 255
ALL = Rule(0.0, 0.0, BELOW)


def whole_of(height: int, width: int, seed: int, size: int) -> Band:
    """Draw a map of few levels, in blocks, so that components are large and branch out."""
    random = np.random.default_rng(seed)
    levels = random.choice(
        np.array([0.1, 0.5, 0.6, 0.9], np.float32),
        (height // size + 1, width // size + 1),
        p=[0.45, 0.35, 0.19, 0.01],
    )
    probability = np.kron(levels, np.ones((size, size), np.float32))[:height, :width]
    disagreement = random.random((height, width), np.float32)
    return Band(0, probability, probability >= THRESHOLD, None, disagreement)


def cut(whole: Band, cuts: set[int]) -> Iterator[Band]:
    height = len(whole.mask)
    for start, stop in pairwise([0, *sorted(c for c in cuts if c < height), height]):
        rows = slice(start, stop)
        assert whole.disagreement is not None
        yield Band(start, whole.probability[rows], whole.mask[rows], None, whole.disagreement[rows])


def by_hand(whole: Band, rule: Rule, tall: int) -> NDArray[np.bool_]:
    """Look at each component of the whole map, one by one: True where one is no building."""
    labels, count = ndimage.label(whole.mask)
    held = np.zeros_like(whole.mask)
    for label in range(1, count + 1):
        here = labels == label
        rows = np.flatnonzero(here.any(axis=1))
        mean = whole.probability[here].astype(np.float64).mean()
        enough = mean >= rule.min_confidence and here.sum() >= rule.min_area
        if not enough and rows[-1] - rows[0] + 1 <= tall:
            held |= here
    return held


def figures(building: Building) -> tuple[bytes, float, float]:
    return building.runs.tobytes(), building.confidence, building.agreement


wholes = st.builds(
    whole_of, st.integers(1, 60), st.integers(1, 40), st.integers(0, 999), st.sampled_from([1, 3])
)
cuts = st.sets(st.integers(1, 59), max_size=12)
rules = st.builds(
    Rule, st.sampled_from([0.0, 0.5337, 0.62]), st.sampled_from([0.0, 3.5, 20.0]), st.just(BELOW)
)


@settings(max_examples=300, deadline=None)
@given(whole=wholes, cuts=cuts, rule=rules, tall=st.sampled_from([5, 1000]))
def test_components_that_are_no_buildings_are_held(
    whole: Band, cuts: set[int], rule: Rule, tall: int
) -> None:
    before, components.TALL = components.TALL, tall
    try:
        bands = list(find_buildings(cut(whole, cuts), rule, each=True))
    finally:
        components.TALL = before
    held = by_hand(whole, rule, tall)
    assert [band.rows for band in bands] == [band.rows for band in cut(whole, cuts)]
    mask = np.concatenate([band.mask for band in bands])
    probability = np.concatenate([band.probability for band in bands])
    np.testing.assert_array_equal(mask, whole.mask & ~held)
    np.testing.assert_array_equal(probability >= THRESHOLD, mask)
    np.testing.assert_array_equal(probability[~held], whole.probability[~held])
    labels, count = ndimage.label(mask)
    found = [building for band in bands for building in band.buildings]
    assert len(found) == sum(band.building_count for band in bands) == count
    drawn = np.zeros_like(mask)
    for building in found:
        crop = building.crop()
        assert not (drawn[building.window] & crop).any()
        drawn[building.window] |= crop
        [label] = np.unique(labels[building.window][crop])
        here = labels == label
        assert building.pixels == np.count_nonzero(crop) == np.count_nonzero(here)
        assert building.confidence == pytest.approx(probability[here].mean(dtype=float), abs=1e-7)
        assert whole.disagreement is not None
        agreement = 1 - whole.disagreement[here].mean(dtype=float)
        assert building.agreement == pytest.approx(agreement, abs=1e-7)
    np.testing.assert_array_equal(drawn, mask)


@settings(max_examples=200, deadline=None)
@given(whole=wholes, some=cuts, others=cuts, rule=rules)
def test_cuts_do_not_show(whole: Band, some: set[int], others: set[int], rule: Rule) -> None:
    one, other = (
        [
            figures(building)
            for band in find_buildings(cut(whole, cuts), rule, each=True)
            for building in band.buildings
        ]
        for cuts in (some, others)
    )
    assert one == other


@given(whole=wholes, cuts=cuts)
def test_the_count_does_not_need_the_buildings(whole: Band, cuts: set[int]) -> None:
    rule = Rule(0.55, 2, BELOW)
    counts = (
        [band.building_count for band in find_buildings(cut(whole, cuts), rule, each=each)]
        for each in (False, True)
    )
    assert next(counts) == next(counts)
    assert not any(b.buildings for b in find_buildings(cut(whole, cuts), rule))


@given(whole=wholes, cuts=cuts)
def test_a_building_leaves_as_soon_as_it_has_ended(whole: Band, cuts: set[int]) -> None:
    """With bands that need not wait, it comes with the band that follows its last row at most."""
    taken = [0]

    def counted() -> Iterator[Band]:
        for band in cut(whole, cuts):
            taken.append(band.rows.stop)
            yield band

    for band in find_buildings(counted(), ALL, each=True):
        for building in band.buildings:
            stop = building.window[0].stop
            assert stop <= band.rows.stop
            assert stop >= band.row


def test_rows_wait_no_longer_than_they_must() -> None:
    """A weak component of endless rows is kept once it is tall, and so memory has an end."""
    weak, taken = np.full((64, 8), 0.5, np.float32), 0

    def endless() -> Iterator[Band]:
        nonlocal taken
        while True:
            taken += 1
            yield Band(64 * (taken - 1), weak, weak >= THRESHOLD)

    found = find_buildings(endless(), Rule(0.6, 0, BELOW))
    assert next(found).mask.all()
    assert taken * 64 <= components.TALL + 3 * 64
    for _ in range(100):
        next(found)
    assert taken * 64 <= components.TALL + 103 * 64


def test_complete_rows_do_not_wait() -> None:
    rows = np.pad(np.full((2, 4), 0.9, np.float32), 1)
    band = Band(0, rows, rows >= THRESHOLD)
    taken: list[int] = []

    def bands() -> Iterator[Band]:
        for i in range(5):
            taken.append(i)
            yield replace(band, row=4 * i)

    found = find_buildings(bands(), Rule(0.6, 0, BELOW))
    next(found)
    assert taken == [0, 1], "one ahead, to know that there is one"


def test_a_gap_between_bands_is_refused() -> None:
    rows = np.zeros((2, 3), np.float32)
    empty = Band(0, rows, rows > 0)
    with pytest.raises(ValueError, match="row 3; row 2 is expected"):
        list(find_buildings([empty, replace(empty, row=3)], ALL))
