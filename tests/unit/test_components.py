"""Which components stay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.segmentation.components import count_components, drop_small_components


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "X" for cell in row] for row in rows])


MASK = mask_of(
    "XX..X",
    "XX...",
    "X.X..",
    "....X",
)  # five pixels joined by their sides, one that touches them at a corner, and two alone


@pytest.mark.parametrize("min_pixels", [1.0001, 1.5, 2, 5])
def test_small_components_go(min_pixels: float) -> None:
    expected = mask_of(
        "XX...",
        "XX...",
        "X....",
        ".....",
    )
    np.testing.assert_array_equal(drop_small_components(MASK, min_pixels), expected)


@pytest.mark.parametrize("min_pixels", [5.1, 6, 1e9, float("inf")])
def test_all_components_may_go(min_pixels: float) -> None:
    assert not drop_small_components(MASK, min_pixels).any()


@pytest.mark.parametrize("min_pixels", [0, 0.5, 1])
def test_nothing_is_smaller_than_a_pixel(min_pixels: float) -> None:
    assert drop_small_components(MASK, min_pixels) is MASK


def test_the_mask_that_is_given_stays() -> None:
    given = MASK.copy()
    drop_small_components(MASK, 3)
    np.testing.assert_array_equal(MASK, given)


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((3, 4), bool)
    np.testing.assert_array_equal(drop_small_components(empty, 2), empty)


def test_components_are_counted() -> None:
    assert count_components(MASK) == 4
    assert count_components(np.zeros((3, 4), bool)) == 0
