"""What was found as a Cloud Optimized GeoTIFF on the image's own grid.

Every band is uint8 with nodata 255 where the image is invalid. The mask is 1 and 0, under a colour
table where it is alone. Probability and disagreement are 250 steps from 0 to 1: the band's scale of
1 / 250 brings them back to within 0.002, and 255 is left to nodata alone.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import ImpossibleOutput
from app.imaging.cog import Draft, Profile, encode_cog, write_cog
from app.imaging.image import RowSource
from app.outputs.findings import Findings, RasterBand
from app.segmentation.buildings import Building
from app.segmentation.stream import SegmentedBand

_INVALID = 255
_STEPS = 250
_SCALES: dict[RasterBand, float] = {
    "mask": 1.0,
    "probability": 1 / _STEPS,
    "disagreement": 1 / _STEPS,
}
_TAGS = {"Software": "TIFFTAG_SOFTWARE"}  # what TIFF has a tag of its own for
_COLOURS = {0: (0, 0, 0), 1: (255, 64, 32), _INVALID: (255, 255, 255)}


def check_grid(image: RowSource) -> tuple[str, ...]:
    """Check that an image has a grid to lie on; there is nothing to notice.

    Raises:
        ImpossibleOutput: it has none.
    """
    if image.georeference is None:
        raise ImpossibleOutput(
            "A GeoTIFF lies on the grid of a georeferenced image, and this one has no "
            "georeference. Send a GeoTIFF, or ask for format=png."
        )
    image.georeference.check_grid()
    return ()


def write_geotiff(findings: Findings, path: Path) -> None:
    """Write a file at `path`, which is whole or not there at all.

    Raises:
        OSError: no room, or no right to write there.
        Exception: whatever `findings` raises on the way.
    """
    write_cog(path, _profile(findings), lambda draft: _draw(draft, findings))


def encode_geotiff(findings: Findings) -> bytes:
    """Make the same in memory."""
    return encode_cog(_profile(findings), lambda draft: _draw(draft, findings))


def _profile(findings: Findings) -> Profile:
    image, tags = findings.image, findings.provenance.tags()
    assert image.georeference is not None, "check_grid comes first"
    return Profile(
        image.height,
        image.width,
        image.georeference,
        {name: _SCALES[name] for name in findings.output.bands},
        _INVALID,
        _COLOURS,
        {_TAGS.get(name, name): text for name, text in tags.items()},
    )


def _draw(draft: Draft, findings: Findings) -> None:
    def draw(band: SegmentedBand) -> None:
        pixels = np.stack([_PIXELS[name](band) for name in findings.output.bands])
        if band.valid is not None:
            pixels[:, ~band.valid] = _INVALID
        draft.write(band.row, pixels)

    def erase(component: Building) -> None:
        draft.fill(component.window, component.crop(), 0)

    for _ in findings.buildings(on_band=draw, on_small=erase):
        pass


def _steps(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    steps: NDArray[np.uint8] = np.rint(share * np.float32(_STEPS)).astype(np.uint8)
    return steps


_PIXELS: dict[RasterBand, Callable[[SegmentedBand], NDArray[np.uint8]]] = {
    "mask": lambda band: band.mask.astype(np.uint8),
    "probability": lambda band: _steps(band.probability),
    "disagreement": lambda band: _steps(band.disagreement),
}
