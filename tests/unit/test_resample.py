"""Rows of a resampled picture are those of the whole resampled picture."""

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from PIL.Image import Resampling

from app.imaging.image import Image
from app.imaging.resample import resample, resample_rows
from tests.factories import scene

SIZES = [((300, 200), (700, 466)), ((700, 466), (300, 200)), ((5, 3), (2, 1)), ((100, 9), (99, 9))]


def whole(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.fromarray(pixels).resize(size[::-1], Resampling.BICUBIC))


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_a_picture_and_a_mask_are_resampled_as_pillow_does(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    pixels = scene(*size)
    for picture in (pixels, np.ascontiguousarray(pixels[..., 0])):
        np.testing.assert_array_equal(resample(picture, *wanted), whole(picture, wanted))


@pytest.mark.parametrize(("size", "wanted"), SIZES)
@pytest.mark.parametrize("step", [1, 56])
def test_rows_are_those_of_the_whole(
    size: tuple[int, int], wanted: tuple[int, int], step: int
) -> None:
    pixels = scene(*size) // 2 + 64  # so that no overshoot is clipped between Pillow's two passes
    rows = [
        resample_rows(Image(pixels), wanted, start, min(wanted[0], start + step))
        for start in range(0, wanted[0], step)
    ]
    # Pillow holds the box in single precision, and takes rows or columns first, whichever is less
    # work: now and then a value is rounded to its other side.
    assert np.abs(np.concatenate(rows).astype(int) - whole(pixels, wanted)).max() <= 2


def test_a_picture_of_the_size_is_not_copied() -> None:
    pixels = scene(20, 30)
    rows = resample_rows(Image(pixels), (20, 30), 5, 9)
    assert np.shares_memory(rows, pixels)
    np.testing.assert_array_equal(rows, pixels[5:9])
