import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from app.segmentation.blending import blend
from app.segmentation.windows import WindowGrid, plan_windows


def ones(grid: WindowGrid, members: int = 1) -> Iterator[NDArray[np.float32]]:
    for _ in grid:
        yield np.ones((members, grid.patch, grid.patch), np.float32)


def test_one_window_comes_through_bit_for_bit() -> None:
    patch = np.random.default_rng(0).random((3, 32, 32), np.float32)
    (band,) = blend(plan_windows(20, 32, 32, 0.25), [patch])
    assert band.row == 0
    np.testing.assert_array_equal(band.members, patch[:, :20])


def test_neighbours_fade_into_each_other() -> None:
    left, right = np.zeros((1, 32, 32), np.float32), np.ones((1, 32, 32), np.float32)
    (band,) = blend(plan_windows(32, 48, 32, 0.5), [left, right])
    row = band.members[0, 0]
    assert (row[:16] == 0).all()
    assert (row[32:] == 1).all()
    assert (np.diff(row[15:33]) > 0).all()
    assert np.diff(row).max() < 0.1  # an average without weights would step by 0.5
    # Hann windows that are half a patch apart sum to 1, so the fade is one of them.
    expected = np.sin(np.pi * (np.arange(16) + 0.5) / 32) ** 2
    np.testing.assert_allclose(row[16:32], expected, atol=1e-6)


def test_bands_end_where_no_later_window_reaches() -> None:
    grid = plan_windows(100, 40, 32, 0.25)
    assert grid.row_offsets == (0, 24, 48, 68)
    bands = list(blend(grid, ones(grid)))
    assert [(band.rows.start, band.rows.stop) for band in bands] == [
        (0, 24), (24, 48), (48, 68), (68, 100)
    ]  # fmt: skip


def test_a_band_leaves_before_the_next_row_of_windows_is_asked_for() -> None:
    grid = plan_windows(10_000, 40, 32, 0.0)
    asked = 0

    def count() -> Iterator[NDArray[np.float32]]:
        nonlocal asked
        for patch in ones(grid):
            asked += 1
            yield patch

    next(blend(grid, count()))
    assert asked == len(grid.col_offsets) == 2


def test_memory_does_not_grow_with_height() -> None:
    def peak(height: int) -> int:
        grid = plan_windows(height, 256, 32, 0.25)
        tracemalloc.start()
        for _ in blend(grid, ones(grid)):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(64)
    whole_map = 4 * 256 * 8192
    assert peak(8192) - peak(256) < whole_map / 20


def test_rounding_never_leaves_the_range() -> None:
    grid = plan_windows(97, 101, 32, 0.7)
    bands = np.concatenate([band.members for band in blend(grid, ones(grid))], axis=1)
    assert bands.max() == 1
    assert bands.min() > 1 - 1e-6


@pytest.mark.parametrize("count", [0, 3, 5])
def test_every_window_must_have_one_prediction(count: int) -> None:
    grid = plan_windows(64, 64, 32, 0.0)
    patches = [np.ones((1, 32, 32), np.float32)] * count
    with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
        list(blend(grid, patches))
