"""Soft images are found, sharpened by as much as they call for, and told of."""

import re

import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest
from numpy.typing import NDArray

from app.imaging.choices import MAX_SHARPEN
from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.imaging.sharpness import sharpen_soft, sharpening_for
from tests.geotiff import tiff
from tests.serving import encoded

RNG = np.random.default_rng(12)


def blurred(pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.fromarray(pixels).filter(PIL.ImageFilter.GaussianBlur(sigma)))


def usual(height: int = 300, width: int = 320) -> NDArray[np.uint8]:
    """Draw boxes of all sizes over each other, which is as sharp as imagery: edges and areas."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    for _ in range(height * width // 40):
        top, left = RNG.integers(0, height), RNG.integers(0, width)
        tall, wide = RNG.integers(2, 12, 2)
        pixels[top : top + tall, left : left + wide] = RNG.integers(20, 200, 3)
    return blurred(pixels, 0.5)


USUAL = usual()


def test_a_usual_image_stays_as_it_is() -> None:
    image = decode_image(encoded(USUAL), max_pixels=10**6)
    np.testing.assert_array_equal(image.pixels, USUAL)
    assert image.notices == ()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("sigma", [1.1, 1.5, 2.5])
def test_a_soft_image_is_sharpened_and_told(kind: str, sigma: float) -> None:
    soft = blurred(USUAL, sigma)
    data = encoded(soft) if kind == "PNG" else tiff(np.moveaxis(soft, 2, 0), photometric="rgb")
    image = decode_image(data, max_pixels=10**6)
    off = np.abs(image.pixels.astype(int) - USUAL).mean()
    assert off < 0.9 * np.abs(soft.astype(int) - USUAL).mean()
    (notice,) = image.notices
    found = re.search(r"is soft, and was sharpened with sharpen=(\d+): sharpen=0 takes", notice)
    assert found is not None
    asked = decode_image(data, max_pixels=10**6, sharpen=int(found[1]))
    np.testing.assert_array_equal(asked.pixels, image.pixels)
    assert asked.notices == ()
    np.testing.assert_array_equal(decode_image(data, max_pixels=10**6, sharpen=0).pixels, soft)


def test_the_softer_the_more() -> None:
    found = [sharpening_for(Image(blurred(USUAL, sigma))) for sigma in (0.3, 1.1, 1.5, 2.0, 4.0)]
    assert found[0] == 0 < found[1]
    assert found == sorted(found)
    assert found[-1] == MAX_SHARPEN


def test_neither_light_nor_labels_make_an_image_soft() -> None:
    assert sharpening_for(Image((USUAL // 3 + 90).astype(np.uint8))) == 0
    soft = sharpening_for(Image(blurred(USUAL, 1.5)))
    assert sharpening_for(Image(blurred(USUAL, 1.5) // 2)) == pytest.approx(soft, rel=0.1)
    label = blurred(USUAL, 2)[..., 0]
    read = decode_image(encoded(label), max_pixels=10**6, grey=True)
    np.testing.assert_array_equal(read.pixels[..., 0], label)


@pytest.mark.parametrize(
    "pixels",
    [
        blurred(usual(99, 99), 2),  # too few to tell
        np.full((300, 300, 3), 77, np.uint8),
        np.repeat(np.linspace(0, 255, 400, dtype=np.uint8)[None, :, None], 300, 0).repeat(3, 2),
        np.zeros((1, 20_000, 3), np.uint8),
        np.zeros((20_000, 1, 3), np.uint8),
    ],
    ids=["small", "plain", "gradient", "row", "column"],
)
def test_what_has_no_detail_to_judge_stays(pixels: NDArray[np.uint8]) -> None:
    assert sharpen_soft(Image(pixels), None).pixels is pixels


def test_only_valid_pixels_are_judged() -> None:
    """Noise where there is nothing makes a soft image no sharper."""
    pixels = blurred(USUAL, 1.5)
    valid = np.ones(pixels.shape[:2], np.bool_)
    valid[:, 100:160] = False
    noise = pixels.copy()
    noise[~valid] = RNG.integers(0, 256, (np.count_nonzero(~valid), 3))
    assert sharpening_for(Image(noise)) == 0
    assert sharpening_for(Image(noise, valid)) == sharpening_for(Image(pixels, valid)) > 200


def test_the_edge_of_a_black_collar_makes_no_image_sharper() -> None:
    pixels = blurred(np.maximum(USUAL, 60), 1.5).copy()
    collar = np.abs(np.arange(300)[:, None] - np.arange(320) + 10) > 200  # of a turned scene
    soft = sharpening_for(Image(pixels, ~collar))
    assert soft > 200
    pixels[collar] = 0
    assert sharpening_for(Image(pixels)) == soft


@pytest.mark.parametrize("height", [1, 6, 20, 21, 22, 70])
def test_strips_are_sharpened_as_the_whole(height: int) -> None:
    pixels = RNG.integers(0, 256, (height, 50_000, 3), np.uint8)  # some 20 rows at a time
    mask = PIL.ImageFilter.UnsharpMask(radius=1.5, percent=300, threshold=0)
    whole = PIL.Image.fromarray(pixels).filter(mask)
    np.testing.assert_array_equal(sharpen_soft(Image(pixels), 300).pixels, np.asarray(whole))
