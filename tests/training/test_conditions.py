"""Tiles in other light keep their size and place, and change as the table of conditions says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.conditions import CONDITIONS


@pytest.fixture
def tile() -> NDArray[np.uint8]:
    """Colours at random, in blocks that blur and JPEG leave something of."""
    blocks = np.random.default_rng(3).integers(0, 256, (8, 12, 3), np.uint8)
    return blocks.repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_changes_pixels_and_nothing_else(name: str, tile: NDArray[np.uint8]) -> None:
    before = tile.copy()

    changed = CONDITIONS[name](tile)

    np.testing.assert_array_equal(tile, before)
    assert (changed.shape, changed.dtype) == (tile.shape, tile.dtype)
    assert (changed != tile).any()
    np.testing.assert_array_equal(changed, CONDITIONS[name](tile))  # the same each time


@pytest.mark.parametrize("name", CONDITIONS)
def test_nothing_moves(name: str, tile: NDArray[np.uint8]) -> None:
    """What a condition does to a flipped tile is the flipped of what it does: noise aside."""
    flipped = np.ascontiguousarray(tile[::-1, ::-1])

    here, there = CONDITIONS[name](tile), CONDITIONS[name](flipped)[::-1, ::-1]

    assert np.abs(here.astype(float) - there).mean() < (20 if name == "noise" else 4)


@pytest.mark.parametrize(
    ("name", "sample", "expected"),
    [
        ("dark", (10, 100, 255), (5, 50, 128)),
        ("bright", (10, 100, 255), (15, 150, 255)),
        ("flat", (28, 128, 228), (78, 128, 178)),
        ("haze", (100, 100, 100), (140, 142, 146)),
        ("gamma-0.5", (0, 64, 255), (0, 128, 255)),
        ("gamma-2", (0, 128, 255), (0, 64, 255)),
        ("warm", (100, 100, 100), (120, 100, 75)),
        ("cold", (100, 100, 100), (75, 100, 120)),
        ("green", (100, 100, 100), (85, 115, 85)),
        ("magenta", (100, 100, 100), (115, 80, 115)),
        ("grey", (255, 0, 0), (76, 76, 76)),
    ],
)
def test_samples_become_what_the_table_says(
    name: str, sample: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    changed = CONDITIONS[name](np.full((2, 2, 3), sample, np.uint8))

    assert changed[1, 1].tolist() == list(expected)


def test_noise_has_its_standard_deviation() -> None:
    changed = CONDITIONS["noise"](np.full((200, 200, 3), 128, np.uint8))

    assert changed.std() == pytest.approx(12, rel=0.02)
