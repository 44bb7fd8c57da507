"""Patches of one colour are asked about once, and nothing about an answer changes by it."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from app.imaging.image import Image
from app.runtime.constant_patches import _COLOURS, OneColour
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from tests.factories import scene


class Watched:
    """A predictor that notes which patches another one is given."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._predictor = segmenter.predictor
        self.members, self.batch_size = self._predictor.members, self._predictor.batch_size
        self.ahead = False
        self.given: list[NDArray[np.uint8]] = []

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        self.given += list(patches)
        return self._predictor.predict(patches, members)


@pytest.fixture
def watched(small_toy: Segmenter) -> Watched:
    return Watched(small_toy)


def plain(*colours: int) -> NDArray[np.uint8]:
    return np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])


def test_a_colour_is_asked_about_once(watched: Watched, small_toy: Segmenter) -> None:
    varied = scene(32, 32)[np.newaxis]
    patches = np.concatenate([plain(0, 0), varied, plain(7, 0), varied])
    once = OneColour(watched)
    for _ in range(2):
        found = once.predict(patches, watched.members)
        expected = small_toy.predictor.predict(patches, watched.members)
        np.testing.assert_array_equal(found, expected)
    # Black and 7 the first time, and each time what is of many colours.
    assert len(watched.given) == 2 + 2 * 2
    found[:] = 0  # who uses an answer may write into it
    np.testing.assert_array_equal(once.predict(patches, watched.members), expected)


def test_other_members_are_asked_anew(watched: Watched, small_toy: Segmenter) -> None:
    once = OneColour(watched)
    for members in (watched.members, watched.members[:1], watched.members[::-1]):
        found = once.predict(plain(9), members)
        np.testing.assert_array_equal(found, small_toy.predictor.predict(plain(9), members))
    assert len(watched.given) == 3


def test_one_pixel_makes_a_difference(watched: Watched) -> None:
    patches = plain(0, 0)
    patches[1, -1, -1, -1] = 1
    OneColour(watched).predict(patches, watched.members)
    assert len(watched.given) == 2


def test_memory_has_an_end(watched: Watched) -> None:
    once = OneColour(watched)
    for _ in range(2):
        once.predict(plain(*range(_COLOURS + 3)), watched.members)
    assert len(once._known) == _COLOURS
    assert len(watched.given) == _COLOURS + 3 + 3


@pytest.mark.parametrize("mask_only", [False, True])
def test_a_black_collar_costs_next_to_nothing(
    watched: Watched, small_toy: Segmenter, mask_only: bool
) -> None:
    pixels = np.zeros((320, 320, 3), np.uint8)
    pixels[:40, :40] = scene(40, 40)
    image = Image(pixels=pixels, valid=None, georeference=None)
    options = Options(overlap=0.0)
    found = Segmenter(small_toy.manifest, watched).segment(image, options, mask_only=mask_only)
    assert len(watched.given) <= len(watched.members) * (4 + 1)  # of 100 windows
    expected = small_toy.segment_image(image, options)
    np.testing.assert_array_equal(found.mask, expected.mask)
