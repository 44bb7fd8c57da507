"""A member that is not asked could not have changed the mask."""

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.bundle.manifest import Threshold
from app.imaging.image import Image
from app.runtime.onnxruntime import Predictor
from app.segmentation.blending import blend
from app.segmentation.early_exit import Vote, predict_until_settled
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter
from app.segmentation.windows import plan_windows, read_patch
from tests.factories import scene

sizes = st.integers(1, 150)
overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75])


class Counting:
    """A predictor that counts the patches about which each member is asked."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.members = predictor.members
        self.batch_size, self.ahead = predictor.batch_size, predictor.ahead
        self.asked = dict.fromkeys(predictor.members, 0)

    def predict(self, patches: NDArray[np.uint8], members: tuple[str, ...]) -> NDArray[np.float32]:
        for member in members:
            self.asked[member] += len(patches)
        return self._predictor.predict(patches, members)


@pytest.fixture
def counting(small_toy: Segmenter) -> Segmenter:
    return Segmenter(small_toy.manifest, Counting(small_toy.predictor))


def dark(height: int, width: int) -> NDArray[np.uint8]:
    """Make an image of hardly any light, of which no patch has one colour."""
    pixels = np.full((height, width, 3), 3, np.uint8)
    pixels[:, ::2] = 4
    return pixels


def blobs(height: int, width: int, seed: int, share: float) -> NDArray[np.uint8]:
    """Make an image of which about `share` is noise, in blocks, and the rest nearly black."""
    random = np.random.default_rng(seed)
    blocks = random.random((height // 13 + 1, width // 17 + 1)) < share
    noisy = np.kron(blocks, np.ones((13, 17), np.bool_))[:height, :width]
    return np.where(noisy[..., np.newaxis], scene(height, width, seed), np.uint8(3))


@settings(max_examples=60, deadline=None)
@given(
    height=sizes,
    width=sizes,
    overlap=overlaps,
    threshold=st.floats(0.02, 0.98),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
    tta=st.sampled_from(["none", "d4"]),
    members=st.sampled_from([None, ("red",), ("green", "blue")]),
    hole=st.booleans(),
    sure=st.sampled_from([None, 0.55, 0.65]),
)
def test_the_mask_is_the_same_bit_for_bit(
    small_toy: Segmenter,
    height: int,
    width: int,
    overlap: float,
    threshold: float,
    share: float,
    seed: int,
    tta: str,
    members: tuple[str, ...] | None,
    hole: bool,
    sure: float | None,
) -> None:
    bound = Threshold(value=0.5, sure=sure, chosen_by="a test")
    manifest = small_toy.manifest.model_copy(update={"threshold": bound})
    segmenter = Segmenter(manifest, small_toy.predictor)
    valid = np.ones((height, width), np.bool_)
    valid[: height // 2, width // 3 :] = not hole
    image = Image(blobs(height, width, seed, share), valid if hole else None)
    options = SegmentOptions(threshold=threshold, overlap=overlap, tta=tta, members=members)

    early = segmenter.segment(image, options, mask_only=True)

    np.testing.assert_array_equal(early.mask, segmenter.segment(image, options).mask)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(40, 120),
    width=st.integers(1, 50),
    overlap=overlaps,
    order=st.permutations(range(3)),
    level=st.integers(128, 255),
    above=st.sampled_from([-0.01, 0.002, 0.02, 0.1]),
    dots=st.integers(1, 6),
    seed=st.integers(0, 9999),
    first=st.floats(0, 0.5),
)
def test_as_few_rows_at_once_as_can_be_are_enough(
    height: int,
    width: int,
    overlap: float,
    order: list[int],
    level: int,
    above: float,
    dots: int,
    seed: int,
    first: float,
) -> None:
    """A patch goes on for the sake of a dot alone, of which it takes every answer to be sure."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 3, np.uint8)
    pixels[random.integers(0, height, dots), random.integers(0, width, dots)] = level
    threshold = level / 255 - above
    grid, row = plan_windows(height, width, 32, overlap), int(first * height)
    patches = [read_patch(pixels, window, 32) for window in grid.windows_from(row)]
    weights = np.array([0.5, 0.3, 0.2], np.float32)

    def ask(few: Sequence[NDArray[np.uint8]], m: int) -> Iterator[NDArray[np.float32]]:
        return (patch[..., m] / np.float32(255) for patch in few)

    def mask(predictions: Iterable[NDArray[np.float32]]) -> NDArray[np.bool_]:
        maps = np.concatenate([band.members for band in blend(grid, predictions, row)], axis=1)
        return np.average(maps, axis=0, weights=weights) >= threshold

    early = predict_until_settled(
        grid,
        patches,
        ask,
        Vote(weights.tolist(), order, threshold, threshold),
        lambda start, stop: None,
        at_least=1,
        first=row,
    )
    full = (np.moveaxis(patch / np.float32(255), 2, 0) for patch in patches)
    np.testing.assert_array_equal(mask(early), mask(full))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_members_are_spared_where_all_is_dark(counting: Segmenter, overlap: float) -> None:
    """Red alone, at half of the weight, can't settle what is dark; with green it can."""
    image = Image(dark(150, 170))
    options = SegmentOptions(threshold=0.4, overlap=overlap)

    counting.segment(image, options, mask_only=True)

    asked = counting.predictor.asked
    assert asked["red"] == asked["green"] > 0
    assert asked["blue"] == 0


def test_only_patches_that_touch_something_unsettled_go_on(counting: Segmenter) -> None:
    pixels = dark(320, 320)
    pixels[5:9, 5:9] = 130  # 0.51: all must be asked whether it reaches 0.5
    options = SegmentOptions(overlap=0)

    found = counting.segment(Image(pixels), options, mask_only=True)

    assert counting.predictor.asked == {"red": 100, "green": 100, "blue": 1}
    np.testing.assert_array_equal(found.mask, pixels[..., 0] == 130)


def test_nothing_is_asked_about_what_is_invalid(counting: Segmenter) -> None:
    valid = np.zeros((320, 320), np.bool_)
    valid[40:60, 300:] = True
    counting.segment(Image(scene(320, 320), valid), SegmentOptions(overlap=0), mask_only=True)
    assert counting.predictor.asked["red"] == 1


def test_probabilities_need_every_answer(counting: Segmenter) -> None:
    image = Image(dark(64, 64))
    counting.segment(image, SegmentOptions(overlap=0))
    assert counting.predictor.asked == {"red": 4, "green": 4, "blue": 4}


def test_a_vote_asks_everybody(counting: Segmenter) -> None:
    image = Image(dark(64, 64))
    counting.segment(image, SegmentOptions(overlap=0, combine="vote"), mask_only=True)
    assert counting.predictor.asked == {"red": 4, "green": 4, "blue": 4}


def test_an_image_of_one_row_is_not_held_in_patches(counting: Segmenter) -> None:
    """Each of its pixels stands for a column of a patch, all of which would be kept."""
    image = Image(dark(1, 200_000))
    tracemalloc.start()
    counting.segment(image, SegmentOptions(threshold=0.4), mask_only=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert counting.predictor.asked["blue"] > 0
