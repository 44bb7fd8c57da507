"""What the PNG results hold."""

import io

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from app.imaging.encode import mask_png, overlay_png, probability_png
from app.imaging.image import Image

RNG = np.random.default_rng(3)
TAGS = {"Software": "rooftrace 1.2.3", "rooftrace_threshold": "0.5"}
PIXELS: NDArray[np.uint8] = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)


def read(data: bytes, mode: str) -> NDArray[np.uint8]:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        assert isinstance(picture, PngImageFile)
        assert picture.text == TAGS
        return np.asarray(picture)


@pytest.mark.parametrize("size", [(20, 31), (1, 1), (1, 9), (9, 1)])
def test_a_mask_is_0_and_255(size: tuple[int, int]) -> None:
    mask = RNG.random(size) < 0.5
    np.testing.assert_array_equal(read(mask_png(mask, TAGS), "L"), np.where(mask, 255, 0))


def test_a_mask_may_be_a_view() -> None:
    mask = RNG.random((20, 31)) < 0.5
    np.testing.assert_array_equal(read(mask_png(mask.T[::-1], TAGS), "L"), mask.T[::-1] * 255)


def test_a_probability_is_rounded_not_cut() -> None:
    probability = np.array([[0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 1]], np.float32)
    given = probability.copy()
    np.testing.assert_array_equal(
        read(probability_png(probability, TAGS), "L"), [[0, 0, 1, 100, 101, 255]]
    )
    np.testing.assert_array_equal(probability, given)


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest() -> None:
    mask = np.zeros((20, 31), bool)
    mask[5:12, 8:20] = True
    inner = np.zeros_like(mask)
    inner[6:11, 9:19] = True
    given = PIXELS.copy()
    drawn = read(overlay_png(Image(PIXELS), mask, TAGS), "RGB")
    np.testing.assert_array_equal(PIXELS, given)
    np.testing.assert_array_equal(drawn[~mask], PIXELS[~mask])
    np.testing.assert_array_equal(np.unique(drawn[mask & ~inner], axis=0), [[255, 64, 32]])
    tinted = 0.6 * PIXELS[inner] + 0.4 * np.array([255, 64, 32])
    np.testing.assert_allclose(drawn[inner], tinted, atol=0.51)


def test_a_building_that_goes_on_beyond_the_image_has_no_outline_there() -> None:
    drawn = read(overlay_png(Image(PIXELS), np.ones((20, 31), bool), TAGS), "RGB")
    np.testing.assert_allclose(drawn, 0.6 * PIXELS + 0.4 * np.array([255, 64, 32]), atol=0.51)


def test_overlay_of_no_building_is_the_image() -> None:
    drawn = read(overlay_png(Image(PIXELS), np.zeros((20, 31), bool), TAGS), "RGB")
    np.testing.assert_array_equal(drawn, PIXELS)


def test_overlay_is_transparent_where_the_image_is_not_valid() -> None:
    valid = RNG.random((20, 31)) < 0.5
    drawn = read(overlay_png(Image(PIXELS, valid), np.zeros((20, 31), bool), TAGS), "RGBA")
    np.testing.assert_array_equal(drawn[..., :3], PIXELS)
    np.testing.assert_array_equal(drawn[..., 3], np.where(valid, 255, 0))
