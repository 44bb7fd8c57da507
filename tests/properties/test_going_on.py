"""Rows that are computed without those above them have the very same bits."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.imaging.image import Image
from app.segmentation.blending import MemberBand, blend
from app.segmentation.options import Options, Tta
from app.segmentation.resampling import first_needed, resample_bands
from app.segmentation.segmenter import Segmenter
from app.segmentation.windows import plan_windows
from tests.factories import scene

sides = st.integers(1, 400)
overlaps = st.floats(0, 0.75)
shares = st.floats(0, 0.999)


def stack(bands: Iterator[MemberBand], first: int) -> NDArray[np.float32]:
    """Put bands together, and check that they begin at `first` and follow each other."""
    parts = []
    for band in bands:
        assert band.row == first
        first = band.rows.stop
        parts.append(band.members)
    return np.concatenate(parts, axis=1)


def assert_same_bits(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@given(
    seen=st.tuples(sides, st.integers(1, 40)),
    size=st.tuples(sides, st.integers(1, 40)),
    patch=st.integers(4, 60),
    overlap=overlaps,
    share=shares,
    seed=st.integers(0, 9),
)
@settings(max_examples=400)
def test_blending_and_resampling_go_on_at_any_row(
    seen: tuple[int, int],
    size: tuple[int, int],
    patch: int,
    overlap: float,
    share: float,
    seed: int,
) -> None:
    grid = plan_windows(*seen, patch, overlap)
    noise = np.random.default_rng(seed).random((len(grid), 2, patch, patch), np.float32)
    patches = dict(zip(grid, noise, strict=True))

    def bands(needed: int) -> Iterator[MemberBand]:
        come = (patches[window] for window in grid.windows_from(needed))
        return resample_bands(blend(grid, come, needed), seen, size)

    whole = stack(bands(0), 0)
    row = int(share * size[0])
    found = list(bands(first_needed(grid.row_offsets, seen, size, row)))

    assert found[0].row <= row
    rest = stack(iter(found), found[0].row)
    assert_same_bits(rest[:, row - found[0].row :], whole[:, row:])


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 80)),
    overlap=overlaps,
    gsd=st.sampled_from([None, 0.13, 0.3, 0.35, 0.47, 0.6]),
    tta=st.sampled_from(["none", "flips"]),
    share=shares,
)
def test_a_segmentation_goes_on_at_any_row(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    gsd: float | None,
    tta: Tta,
    share: float,
) -> None:
    valid = np.random.default_rng(1).random(shape) < 0.9
    image = Image(scene(*shape), valid)
    options = Options(overlap=overlap, gsd=gsd, tta=tta)
    row = int(share * shape[0])
    plan = small_toy.plan(image, options)
    whole = stack(small_toy.member_bands(plan, image), 0)
    rest = stack(small_toy.member_bands(plan, image, first=row), row)
    assert_same_bits(rest, whole[:, row:])


@pytest.mark.parametrize("gsd", [None, 0.2, 0.6])
def test_what_lies_far_above_is_not_predicted_again(
    small_toy: Segmenter, gsd: float | None
) -> None:
    batches = 0

    def count() -> None:
        nonlocal batches
        batches += 1

    image = Image(scene(2000, 40))
    plan = small_toy.plan(image, Options(gsd=gsd, overlap=0.75))
    list(small_toy.bands(plan, image, count))
    whole, batches = batches, 0
    list(small_toy.bands(plan, image, count, first=1900))
    assert 0 < batches < 0.12 * whole
