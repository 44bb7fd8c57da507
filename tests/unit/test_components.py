"""Which components are buildings, and what becomes of the others."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from app.segmentation.components import Rule, find_buildings
from app.segmentation.stream import Band


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "X" for cell in row] for row in rows])


MASK = mask_of(
    "XX..X",
    "XX...",
    "X.X..",
    "....X",
)  # five pixels joined by their sides, one that touches them at a corner, and two alone


def kept(rule: Rule) -> NDArray[np.bool_]:
    [band] = find_buildings([Band(0, MASK * np.float32(0.8), MASK)], rule)
    return band.mask


@pytest.mark.parametrize("min_area", [1.0001, 1.5, 2, 5])
def test_small_components_go(min_area: float) -> None:
    expected = mask_of(
        "XX...",
        "XX...",
        "X....",
        ".....",
    )
    np.testing.assert_array_equal(kept(Rule(0, min_area, 0.4)), expected)


@pytest.mark.parametrize("min_area", [5.1, 6, 1e9, float("inf")])
def test_all_components_may_go(min_area: float) -> None:
    assert not kept(Rule(0, min_area, 0.4)).any()


@pytest.mark.parametrize("min_area", [0, 0.5, 1])
def test_nothing_is_smaller_than_a_pixel(min_area: float) -> None:
    np.testing.assert_array_equal(kept(Rule(0, min_area, 0.4)), MASK)


@pytest.mark.parametrize(("min_confidence", "all_stay"), [(0.8, True), (0.81, False)])
def test_a_mean_at_the_bound_is_enough(min_confidence: float, all_stay: bool) -> None:
    # 0.8 in float32 is a little more than 0.8.
    assert kept(Rule(min_confidence, 0, 0.4)).any() == all_stay


def test_the_band_that_is_given_stays() -> None:
    given, probability = MASK.copy(), MASK * np.float32(0.8)
    list(find_buildings([Band(0, probability, given)], Rule(0, 9, 0.4)))
    np.testing.assert_array_equal(given, MASK)
    assert probability.max() == np.float32(0.8)


def test_bands_go_when_they_are_done() -> None:
    """Memory holds the bands that wait for their components, whatever the image's height."""
    alive: list[weakref.ref[Band]] = []

    def bands() -> Iterator[Band]:
        for row in range(0, 400, 4):
            rows = np.zeros((4, 9), np.float32)
            band = Band(row, rows, rows > 0)
            alive.append(weakref.ref(band))
            yield band

    for _ in find_buildings(bands(), Rule(0.7, 0, 0.4)):
        assert sum(band() is not None for band in alive) <= 4


def test_areas_are_those_of_the_rows() -> None:
    """In degrees, say, the same component is larger nearer to the equator."""
    mask = np.zeros((8, 5), np.bool_)
    mask[1, 1:4] = mask[6, 1:4] = True
    rule = Rule(0, 5.5, 0.4, np.linspace(1, 2.4, 8))  # 3 x 1.2 and 3 x 2.2 m²
    [band] = find_buildings([Band(0, mask * np.float32(0.8), mask)], rule)
    assert not band.mask[:4].any()
    np.testing.assert_array_equal(band.mask[4:], mask[4:])
