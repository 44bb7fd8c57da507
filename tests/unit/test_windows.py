import numpy as np
import pytest

from app.segmentation.windows import Window, offsets, plan_windows, read_patch
from tests.factories import scene


def test_offsets_slide_the_last_window_inward() -> None:
    assert offsets(1024, 224, 224) == [0, 224, 448, 672, 800]


def test_offsets_do_not_repeat_when_the_axis_divides_evenly() -> None:
    assert offsets(448, 224, 112) == [0, 112, 224]


@pytest.mark.parametrize("n", [1, 223, 224])
def test_an_axis_within_one_patch_has_one_offset(n: int) -> None:
    assert offsets(n, 224, 168) == [0]


@pytest.mark.parametrize(("overlap", "windows"), [(0.0, 25), (0.25, 36), (0.5, 81)])
def test_overlap_sets_the_number_of_windows(overlap: float, windows: int) -> None:
    assert len(plan_windows(1024, 1024, 224, overlap)) == windows


def test_a_grid_runs_along_rows_and_knows_its_length() -> None:
    grid = plan_windows(40, 70, 32, 0.0)
    assert list(grid) == [Window(r, c, 32, 32) for r in (0, 8) for c in (0, 32, 38)]
    assert len(grid) == 6


def test_windows_of_a_small_image_are_as_small_as_it() -> None:
    assert next(iter(plan_windows(5, 70, 32, 0.0))) == Window(0, 0, 5, 32)


def test_a_whole_patch_is_read_without_a_copy() -> None:
    pixels = scene(64, 64)
    patch = read_patch(pixels, Window(10, 20, 32, 32), 32)
    assert np.shares_memory(patch, pixels)
    np.testing.assert_array_equal(patch, pixels[10:42, 20:52])


def test_a_small_image_is_reflected_without_repeating_its_edge() -> None:
    pixels = np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((3, 8, 3), np.uint8)
    patch = read_patch(pixels, Window(0, 0, 3, 8), 8)
    assert patch[:, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (3, 31), (32, 1), (1, 500)])
def test_any_tiny_image_fills_a_patch_with_its_own_pixels(height: int, width: int) -> None:
    pixels = scene(height, width)
    window = Window(0, 0, height, min(width, 32))
    patch = read_patch(pixels, window, 32)
    assert patch.shape == (32, 32, 3)
    assert patch.dtype == np.uint8
    np.testing.assert_array_equal(patch[: window.height, : window.width], pixels[:, :32])
    assert {tuple(p) for p in patch.reshape(-1, 3)} <= {tuple(p) for p in pixels.reshape(-1, 3)}
