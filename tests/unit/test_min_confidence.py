"""The minimum confidence: what it does to probabilities, masks and results."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import Threshold
from app.imaging.image import Image
from app.outputs.formats import FORMATS
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from tests.maps import encode, geotiff, stream_of

THRESHOLD, BOUND = 0.5, 0.7


@pytest.fixture
def choosy(small_toy: Segmenter) -> Segmenter:
    """The toy, which wants 0.7 on average of every building."""
    threshold = Threshold(value=THRESHOLD, min_confidence=BOUND, chosen_by="a test")
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


def test_a_component_of_low_confidence_is_held_below_the_threshold(
    choosy: Segmenter, levels: NDArray[np.float64]
) -> None:
    found = choosy.segment_image(Image(grey(levels)))
    expected = levels >= THRESHOLD
    expected[:, 50:] = False
    np.testing.assert_array_equal(found.mask, expected)
    assert found.probability[30, 70] == np.float32(THRESHOLD - 1 / 255)
    np.testing.assert_allclose(found.probability[:, :50], levels[:, :50], atol=0.01)


@pytest.mark.parametrize("threshold", [0.3, 0.497, 0.5, 0.55, 0.7, 0.85])
@pytest.mark.parametrize("min_confidence", [None, 0.0, 0.65, 1.0])
def test_at_any_threshold_the_mask_is_where_the_probabilities_reach_it(
    choosy: Segmenter,
    levels: NDArray[np.float64],
    threshold: float,
    min_confidence: float | None,
) -> None:
    options = Options(threshold=threshold, min_confidence=min_confidence)
    found = choosy.segment_image(Image(grey(levels)), options)
    np.testing.assert_array_equal(found.mask, found.probability >= threshold)


@pytest.mark.parametrize(
    "options",
    [
        Options(min_confidence=0),
        Options(combine="vote"),
        Options(models="red,green"),
    ],
)
def test_it_can_be_off(choosy: Segmenter, levels: NDArray[np.float64], options: Options) -> None:
    mask = choosy.segment_image(Image(grey(levels)), options).mask
    np.testing.assert_array_equal(mask, levels >= THRESHOLD)


def test_a_lower_threshold_asks_for_more_buildings(
    choosy: Segmenter, levels: NDArray[np.float64]
) -> None:
    """The manifest's bound was fitted to its threshold: below that it must not take more away."""
    image = Image(grey(levels))
    mask = choosy.segment_image(image, Options(threshold=0.4)).mask
    np.testing.assert_array_equal(mask, levels >= 0.4)
    asked = choosy.segment_image(image, Options(threshold=0.4, min_confidence=BOUND)).mask
    assert not asked[:, 50:].any()


def test_a_client_may_ask_for_more_than_the_bundle(
    small_toy: Segmenter, levels: NDArray[np.float64]
) -> None:
    image = Image(grey(levels))
    np.testing.assert_array_equal(small_toy.segment_image(image).mask, levels >= THRESHOLD)
    mask = small_toy.segment_image(image, Options(min_confidence=0.7)).mask
    assert mask[:, :50].any()
    assert not mask[:, 50:].any()


@pytest.mark.parametrize(
    ("format", "bands"), [("geojson", "mask"), ("geotiff", "mask,probability")]
)
def test_a_file_is_what_is_encoded(
    choosy: Segmenter, tmp_path: Path, format: str, bands: str
) -> None:
    data, path = geotiff(patchwork(4)), tmp_path / "out"
    stream = stream_of(choosy, data, format, bands=bands)
    FORMATS[format].save(stream, path)
    assert path.read_bytes() == encode(choosy, data, format, bands=bands)
    assert stream.plan.min_confidence == BOUND
