"""What the PNG results hold."""

import io

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from app.imaging.encode import write_grey_png, write_overlay_png

RNG = np.random.default_rng(3)
TAGS = {"Software": "rooftrace 1.2.3", "rooftrace_threshold": "0.5"}
PIXELS: NDArray[np.uint8] = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)


def read(data: bytes, mode: str) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        assert isinstance(picture, PngImageFile)
        assert picture.text == TAGS
        return np.asarray(picture)


def grey_png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    write_grey_png(file, pixels, TAGS)
    return file.getvalue()


def overlay_png(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None
) -> bytes:
    file = io.BytesIO()
    write_overlay_png(file, pixels, valid, mask, TAGS)
    return file.getvalue()


@pytest.mark.parametrize("size", [(20, 31), (1, 1), (1, 9), (9, 1)])
def test_grey_comes_back(size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, size, np.uint8)
    np.testing.assert_array_equal(read(grey_png(pixels), "L"), pixels)


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest() -> None:
    mask = np.zeros((20, 31), bool)
    mask[5:12, 8:20] = True
    inner = np.zeros_like(mask)
    inner[6:11, 9:19] = True
    given = PIXELS.copy()
    drawn = read(overlay_png(PIXELS, mask), "RGB")
    np.testing.assert_array_equal(PIXELS, given)
    np.testing.assert_array_equal(drawn[~mask], PIXELS[~mask])
    np.testing.assert_array_equal(np.unique(drawn[mask & ~inner], axis=0), [[255, 64, 32]])
    tinted = 0.6 * PIXELS[inner] + 0.4 * np.array([255, 64, 32])
    np.testing.assert_allclose(drawn[inner], tinted, atol=0.51)


def test_a_building_that_goes_on_beyond_the_image_has_no_outline_there() -> None:
    drawn = read(overlay_png(PIXELS, np.ones((20, 31), bool)), "RGB")
    np.testing.assert_allclose(drawn, 0.6 * PIXELS + 0.4 * np.array([255, 64, 32]), atol=0.51)


def test_overlay_of_no_building_is_the_image() -> None:
    drawn = read(overlay_png(PIXELS, np.zeros((20, 31), bool)), "RGB")
    np.testing.assert_array_equal(drawn, PIXELS)


def test_overlay_is_transparent_where_the_image_is_not_valid() -> None:
    valid = RNG.random((20, 31)) < 0.5
    drawn = read(overlay_png(PIXELS, np.zeros((20, 31), bool), valid), "RGBA")
    np.testing.assert_array_equal(drawn[..., :3], PIXELS)
    np.testing.assert_array_equal(drawn[..., 3], np.where(valid, 255, 0))
