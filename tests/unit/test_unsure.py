"""A building must be sure on the whole: what that does to probabilities, masks and results."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from app.bundle.manifest import Threshold
from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.outputs.findings import OutputOptions
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import SegmentedBand
from tests.maps import encode, geotiff, pipeline

THRESHOLD, SURE = 0.5, 0.7


@pytest.fixture
def choosy(small_toy: Segmenter) -> Segmenter:
    """The toy, which wants 0.7 on average of every building."""
    threshold = Threshold(value=THRESHOLD, sure=SURE, chosen_by="a test")
    manifest = small_toy.manifest.model_copy(update={"threshold": threshold})
    return Segmenter(manifest, small_toy.predictor)


def grey(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Paint probabilities: the toy's members each see a channel."""
    return np.repeat(np.rint(255 * levels)[..., np.newaxis], 3, axis=2).astype(np.uint8)


def patchwork(seed: int) -> NDArray[np.uint8]:
    """Paint rectangles of random colours, 280 x 180 pixels."""
    colours = np.random.default_rng(seed).integers(0, 256, (40, 20, 3))
    return np.kron(colours, np.ones((7, 9, 1))).astype(np.uint8)


@pytest.fixture
def levels() -> NDArray[np.float64]:
    """Two buildings: the left one is sure but for its edge, the right one in a single pixel."""
    levels = np.full((90, 100), 0.1)
    levels[20:60, 10:40] = levels[20:60, 60:90] = 0.6
    levels[25:55, 15:35] = levels[50, 70] = 0.9
    return levels


def test_what_is_not_sure_on_the_whole_is_held_below_the_threshold(
    choosy: Segmenter, levels: NDArray[np.float64]
) -> None:
    found = choosy.segment(Image(grey(levels)))
    expected = levels >= THRESHOLD
    expected[:, 50:] = False
    np.testing.assert_array_equal(found.mask, expected)
    assert found.probability[30, 70] == np.float32(THRESHOLD - 1 / 255)
    np.testing.assert_allclose(found.probability[:, :50], levels[:, :50], atol=0.01)


@pytest.mark.parametrize("threshold", [0.3, 0.497, 0.5, 0.55, 0.7, 0.85])
def test_at_any_threshold_the_mask_is_that_of_the_probabilities(
    choosy: Segmenter, levels: NDArray[np.float64], threshold: float
) -> None:
    image = Image(grey(levels))
    probability = choosy.segment(image).probability
    options = SegmentOptions(threshold=threshold)
    for mask_only in (False, True):
        mask = choosy.segment(image, options, mask_only=mask_only).mask
        np.testing.assert_array_equal(mask, probability >= threshold)


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(unsure="keep"),
        SegmentOptions(combine="vote"),
        SegmentOptions(members=("red", "green")),
    ],
)
def test_it_can_be_off(
    choosy: Segmenter, levels: NDArray[np.float64], options: SegmentOptions
) -> None:
    mask = choosy.segment(Image(grey(levels)), options).mask
    np.testing.assert_array_equal(mask, levels >= THRESHOLD)


def test_without_a_bound_nothing_is_held(small_toy: Segmenter, levels: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(small_toy.segment(Image(grey(levels))).mask, levels >= THRESHOLD)


def test_early_exit_asks_everybody_about_buildings(choosy: Segmenter) -> None:
    """Two of three members settle each pixel; what a building is on average, the third knows."""
    levels = np.zeros((90, 100))
    levels[10:70, 20:90] = 0.8
    mask = choosy.segment(Image(grey(levels)), mask_only=True).mask
    np.testing.assert_array_equal(mask, levels >= THRESHOLD)


@pytest.mark.parametrize("threshold", [None, 0.55])
def test_early_exit_knows_of_it(choosy: Segmenter, threshold: float | None) -> None:
    image = Image(patchwork(3))
    options = SegmentOptions(threshold=threshold)
    whole = choosy.segment(image, options).mask
    np.testing.assert_array_equal(choosy.segment(image, options, mask_only=True).mask, whole)
    off = choosy.segment(image, SegmentOptions(threshold=threshold, unsure="keep")).mask
    assert off.sum() > whole.sum() > 0


@pytest.mark.parametrize(
    ("format", "bands"), [("geojson", ("mask",)), ("geotiff", ("mask", "probability"))]
)
def test_in_bands_it_is_the_same(
    choosy: Segmenter, tmp_path: Path, format: str, bands: tuple[str, ...]
) -> None:
    data, path = geotiff(patchwork(4)), tmp_path / "out"
    output = OutputOptions(bands=bands)  # type: ignore[arg-type]
    line = pipeline(choosy, format, output=output)
    assert line.format.write is not None
    findings = line.stream("map.tif", decode_image(data, max_pixels=10**8))
    line.format.write(findings, path)
    assert path.read_bytes() == encode(choosy, data, format, output=output)
    assert findings.provenance.sure == SURE


def test_bands_go_when_they_are_done(choosy: Segmenter) -> None:
    """What is held back is what waits for its components, whatever the image's height."""
    alive: list[weakref.ref[SegmentedBand]] = []

    def bands() -> Iterator[SegmentedBand]:
        for row in range(0, 400, 4):
            rows = np.zeros((4, 9), np.float32)
            band = SegmentedBand(row, rows, rows, rows > 0, None)
            alive.append(weakref.ref(band))
            yield band

    for _ in choosy.hold_unsure(bands()):
        assert sum(band() is not None for band in alive) <= 4


def test_sure_is_more_than_the_threshold() -> None:
    with pytest.raises(ValidationError, match=r"sure must lie above value, 0\.5, got 0\.5"):
        Threshold(value=0.5, sure=0.5, chosen_by="nobody")
