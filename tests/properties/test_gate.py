"""The gate clears what its member alone decides, and leaves every other patch as it is."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.bundle.manifest import Gate
from app.imaging.image import Image
from app.segmentation.blending import blend
from app.segmentation.cascade import Gating
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter
from app.segmentation.windows import plan_windows, read_patch
from tests.factories import TOY_WEIGHTS, toy_gate
from tests.properties.test_early_exit import Counting, blobs, dark, overlaps, sizes

PATCH = 32


def gated(segmenter: Segmenter, member: str, threshold: float) -> Segmenter:
    """Give a bundle a gate; the same networks answer, and are counted."""
    gate = Gate.model_validate(toy_gate(member, threshold))
    manifest = segmenter.manifest.model_copy(update={"gate": gate})
    return Segmenter(manifest, Counting(segmenter.predictor))


def expected(
    pixels: NDArray[np.uint8], channel: int, below: float, overlap: float
) -> tuple[NDArray[np.bool_], int]:
    """Say what the mask of the toy bundle must be, and how many patches are cleared."""
    grid = plan_windows(*pixels.shape[:2], PATCH, overlap)
    cleared = 0

    def predictions() -> Iterator[NDArray[np.float32]]:
        nonlocal cleared
        for window in grid:
            patch = read_patch(pixels, window, PATCH).astype(np.float32) / np.float32(255)
            clear = patch[..., channel].max() < below
            cleared += clear
            yield np.moveaxis(patch * np.float32(not clear), 2, 0)

    blended = np.concatenate([band.members for band in blend(grid, predictions())], axis=1)
    weights = np.array(list(TOY_WEIGHTS.values()), np.float32)
    return np.average(blended, axis=0, weights=weights) >= 0.5, cleared


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(sizes, sizes),
    overlap=overlaps,
    member=st.sampled_from(list(TOY_WEIGHTS)),
    below=st.floats(0.01, 0.99),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_patches_are_cleared_or_as_they_were(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    member: str,
    below: float,
    share: float,
    seed: int,
) -> None:
    """Bit for bit, early exit or not: what is cleared counts as 0 of everybody, the rest fully."""
    segmenter, options = gated(small_toy, member, below), SegmentOptions(overlap=overlap)
    pixels = blobs(*shape, seed, share)
    mask, cleared = expected(pixels, list(TOY_WEIGHTS).index(member), below, overlap)
    image, whole = Image(pixels), Gating(member, below)

    early = segmenter.segment(image, options, mask_only=True)
    late = segmenter.combine(image, segmenter.bands(image, options, gating=whole), options)

    np.testing.assert_array_equal(early.mask, mask)
    np.testing.assert_array_equal(late.mask, mask)
    windows = len(plan_windows(*shape, PATCH, overlap))
    assert early.gating == whole == Gating(member, below, windows, cleared)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(sizes, sizes),
    overlap=overlaps,
    gsd=st.sampled_from([None, 0.3, 0.47]),
    below=st.floats(0.01, 0.99),
    share=st.floats(0, 0.999),
    gate=st.sampled_from(["on", "off"]),
    hole=st.booleans(),
)
def test_a_mask_goes_on_at_any_row(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    gsd: float | None,
    below: float,
    share: float,
    gate: str,
    hole: bool,
) -> None:
    """With early exit and gate, as an interrupted run does."""
    segmenter = gated(small_toy, "green", below)
    options = SegmentOptions(overlap=overlap, gsd=gsd, gate=gate)
    valid = np.ones(shape, np.bool_)
    valid[: shape[0] // 2, shape[1] // 3 :] = not hole
    image = Image(blobs(*shape, 3, 0.2), valid)
    row = int(share * shape[0])

    def mask(first: int) -> NDArray[np.bool_]:
        bands = segmenter.bands(
            image, options, mask_only=True, gating=segmenter.gating(options), first=first
        )
        return np.concatenate([b.mask for b in segmenter.combine_bands(image, bands, options)])

    np.testing.assert_array_equal(mask(row), mask(0)[row:])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(sizes, sizes),
    overlap=overlaps,
    gsd=st.sampled_from([None, 0.3]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_without_the_gate_all_is_as_ever(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    gsd: float | None,
    share: float,
) -> None:
    segmenter, image = gated(small_toy, "blue", 0.9), Image(blobs(*shape, 1, share))
    options = SegmentOptions(overlap=overlap, gsd=gsd, gate="off")

    ungated = segmenter.segment(image, options, mask_only=True)

    assert ungated.gating is None
    np.testing.assert_array_equal(ungated.mask, small_toy.segment(image, options).mask)


@pytest.mark.parametrize(
    "options",
    [
        {"combine": "vote"},
        {"tta": "flips"},
        {"members": ("red", "green")},
        {"members": ("blue",)},
        {"threshold": 0.49},
        {"gate": "off"},
    ],
)
def test_it_stands_aside_where_it_was_not_fitted(
    small_toy: Segmenter, options: dict[str, object]
) -> None:
    segmenter = gated(small_toy, "blue", 0.9)
    chosen = SegmentOptions(overlap=0, **options)
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[..., 2] = 0  # blue sees nothing, and the others a building everywhere

    found = segmenter.segment(Image(pixels), chosen, mask_only=True)

    assert found.gating is None
    np.testing.assert_array_equal(found.mask, small_toy.segment(Image(pixels), chosen).mask)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.5}, {"threshold": 0.7, "min_area": 9}])
def test_it_may_be_wrong(small_toy: Segmenter, options: dict[str, float]) -> None:
    segmenter = gated(small_toy, "blue", 0.9)
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[:, :32, 2] = 0

    found = segmenter.segment(Image(pixels), SegmentOptions(overlap=0, **options), mask_only=True)

    assert str(found.gating) == "blue<0.9; cleared 2 of 4 patches"
    assert not found.mask[:, :32].any()
    assert found.mask[:, 32:].all()


def test_probabilities_are_never_gated(small_toy: Segmenter) -> None:
    pixels = np.full((64, 64, 3), 3, np.uint8)
    found = gated(small_toy, "blue", 0.9).segment(Image(pixels))
    assert found.gating is None
    assert found.probability.min() > 0


@pytest.mark.parametrize("gsd", [None, 0.3])  # unknown, and one at which the image is enlarged
def test_nobody_else_is_asked_about_what_is_cleared(
    small_toy: Segmenter, gsd: float | None
) -> None:
    segmenter = gated(small_toy, "blue", 0.1)
    pixels = dark(320, 320)
    pixels[5:9, 5:9] = 130  # 0.51: all must be asked whether it reaches 0.5

    found = segmenter.segment(Image(pixels), SegmentOptions(overlap=0, gsd=gsd), mask_only=True)

    asked = segmenter.predictor.asked
    assert found.gating is not None
    assert asked["blue"] == found.gating.asked >= 100
    assert asked["red"] == asked["green"] == found.gating.asked - found.gating.cleared == 1


def test_invalid_windows_are_not_even_shown_to_the_gate(small_toy: Segmenter) -> None:
    segmenter = gated(small_toy, "blue", 0.1)
    valid = np.zeros((320, 320), np.bool_)
    valid[40:60, 300:] = True
    found = segmenter.segment(
        Image(blobs(320, 320, 0, 1.0), valid), SegmentOptions(overlap=0), mask_only=True
    )
    assert found.gating == Gating("blue", 0.1, asked=1, cleared=0)
