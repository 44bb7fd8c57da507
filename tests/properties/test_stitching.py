"""What holds for every image size and every overlap."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.imaging.image import Image
from app.segmentation.blending import MemberBand, blend
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.windows import WindowGrid, offsets, plan_windows, read_patch
from tests.factories import EXACTLY, TOY_WEIGHTS, ramp_graph, ramp_of, scene, write_toy_bundle

sizes = st.integers(1, 90)
overlaps = st.floats(0, 0.75)
patch_sizes = st.integers(4, 40)


def image_of(pixels: NDArray[np.uint8]) -> Image:
    return Image(pixels=pixels, valid=None, georeference=None)


def blend_naively(grid: WindowGrid, patches: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Sum w * p and w over the whole image, window by window, then divide."""
    hann = np.sin(np.pi * (np.arange(grid.patch) + 0.5) / grid.patch) ** 2
    weights = hann[:, None] * hann
    top = np.zeros((len(patches[0]), grid.height, grid.width))
    bottom = np.zeros((grid.height, grid.width))
    for window, patch in zip(grid, patches, strict=True):
        w = weights[: window.height, : window.width]
        top[:, window.rows, window.cols] += w * patch[:, : window.height, : window.width]
        bottom[window.rows, window.cols] += w
    assert (bottom > 0).all()
    return top / bottom


def stack(bands: Iterator[MemberBand]) -> NDArray[np.float32]:
    """Put bands together, and check that each begins where the last one ended."""
    parts: list[NDArray[np.float32]] = []
    end = 0
    for band in bands:
        assert band.row == end
        assert band.members.shape[1] > 0
        end = band.rows.stop
        parts.append(band.members)
    return np.concatenate(parts, axis=1)


@given(n=st.integers(1, 5000), patch=st.integers(1, 300), data=st.data())
def test_offsets_rise_stay_inside_and_leave_no_gap(n: int, patch: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(max(1, patch // 8), patch))
    found = offsets(n, patch, stride)
    steps = np.diff(found)
    assert found[0] == 0
    assert found[-1] == max(0, n - patch)
    assert ((steps > 0) & (steps <= stride)).all()
    assert found == [min(i * stride, max(0, n - patch)) for i in range(len(found))]


@given(height=sizes, width=sizes, patch=patch_sizes, overlap=overlaps)
def test_windows_cover_every_pixel(height: int, width: int, patch: int, overlap: float) -> None:
    grid = plan_windows(height, width, patch, overlap)
    covered = np.zeros((height, width), np.int64)
    for window in grid:
        assert (window.height, window.width) == (min(height, patch), min(width, patch))
        covered[window.rows, window.cols] += 1
    assert covered.min() >= 1
    assert covered.sum() == len(grid) * min(height, patch) * min(width, patch)


@given(height=sizes, width=sizes, patch=patch_sizes, overlap=overlaps)
def test_a_patch_begins_with_its_window(
    height: int, width: int, patch: int, overlap: float
) -> None:
    pixels = scene(height, width)
    for window in plan_windows(height, width, patch, overlap):
        found = read_patch(pixels, window, patch)
        assert found.shape == (patch, patch, 3)
        np.testing.assert_array_equal(
            found[: window.height, : window.width], pixels[window.rows, window.cols]
        )


@given(
    height=sizes, width=sizes, patch=patch_sizes, overlap=overlaps, value=st.floats(0, 1, width=32)
)
def test_blending_a_constant_is_that_constant(
    height: int, width: int, patch: int, overlap: float, value: float
) -> None:
    grid = plan_windows(height, width, patch, overlap)
    constant = np.full((2, patch, patch), value, np.float32)
    found = stack(blend(grid, (constant for _ in grid)))
    assert found.shape == (2, height, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, value, atol=1e-6)


@given(height=sizes, width=sizes, patch=patch_sizes, overlap=overlaps)
def test_streaming_equals_blending_the_whole_map(
    height: int, width: int, patch: int, overlap: float
) -> None:
    grid = plan_windows(height, width, patch, overlap)
    random = np.random.default_rng(height * 1000 + width)
    patches = [random.random((2, patch, patch), np.float32) for _ in grid]
    np.testing.assert_allclose(
        stack(blend(grid, iter(patches))), blend_naively(grid, patches), atol=1e-6
    )


@settings(max_examples=25)
@given(height=st.integers(1, 500), width=st.integers(1, 500), overlap=overlaps)
def test_a_pixelwise_member_is_found_again_at_any_size(
    toy: Segmenter, height: int, width: int, overlap: float
) -> None:
    pixels = scene(height, width, seed=height)
    found = toy.segment_image(image_of(pixels), Options(overlap=overlap))
    expected = (pixels / 255) @ np.array(list(TOY_WEIGHTS.values()))
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
    np.testing.assert_array_equal(found.mask, found.probability >= 0.5)


@settings(max_examples=25)
@given(height=sizes, width=sizes, overlap=overlaps)
def test_the_bands_of_each_member_are_its_channel(
    small_toy: Segmenter, height: int, width: int, overlap: float
) -> None:
    pixels = scene(height, width)
    image = image_of(pixels)
    plan = small_toy.plan(image, Options(overlap=overlap))
    found = stack(small_toy.member_bands(plan, image))
    np.testing.assert_allclose(found, np.moveaxis(pixels / 255, 2, 0), atol=1e-6)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    """A bundle that answers by position within the patch, so that every seam shows."""
    folder = tmp_path_factory.mktemp("ramp")
    bundle = write_toy_bundle(folder, {"ramp": 1.0}, patch_size=32, graphs={"ramp": ramp_graph(32)})
    with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
        yield segmenter


@settings(max_examples=25)
@given(height=sizes, width=sizes, overlap=overlaps)
def test_a_member_that_looks_at_positions_is_blended_by_weight(
    ramp: Segmenter, height: int, width: int, overlap: float
) -> None:
    grid = plan_windows(height, width, 32, overlap)
    expected = blend_naively(grid, [ramp_of(32)[None]] * len(grid))[0]
    found = ramp.segment_image(image_of(scene(height, width)), Options(overlap=overlap))
    np.testing.assert_allclose(found.probability, expected, atol=1e-6)
