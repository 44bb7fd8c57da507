"""The mask as a Cloud Optimized GeoTIFF on the image's own grid.

Every band is uint8 with nodata 255 where the image is invalid. The mask is 1 and 0, under a colour
table where it is the only data. Probability and disagreement are 250 steps from 0 to 1: the band's
scale of 1 / 250 brings them back to within 0.002, and 255 is left to nodata alone.

Alpha says how to draw a pixel, not whether it is valid: background is valid, and counts in
statistics over the mask. GDAL and QGIS take validity from nodata where a file has both. A TIFF's
colour table can't be transparent, and nodata 0 would mix background with invalid pixels.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..imaging.cog import Profile, change_cog, encode_cog, write_cog
from ..imaging.georeference import GeoReference
from ..imaging.image import RowSource
from ..segmentation.options import RasterBand
from ..segmentation.stream import Band, SegmentedStream
from .pictures import to_steps
from .provenance import tags
from .styles import COLOURS, OPACITY

Runs = NDArray[np.int32]

_INVALID = 255
_STEPS = 250
_SCALES: dict[RasterBand, float] = {
    "mask": 1.0,
    "probability": 1 / _STEPS,
    "disagreement": 1 / _STEPS,
}
_TAGS = {"Software": "TIFFTAG_SOFTWARE"}  # what TIFF has a tag of its own for


def check_grid(image: RowSource) -> tuple[str, ...]:
    """Check that an image has a grid to lie on; return no notices.

    Raises:
        ImpossibleOutput: it has none.
    """
    GeoReference.required(image.georeference).check_grid()
    return ()


def save_geotiff(stream: SegmentedStream, path: Path) -> None:
    """Write a file at `path`, which is whole or not there at all.

    Raises:
        OSError: no room, or no right to write there.
        Exception: any that the stream raises.
    """
    write_cog(path, _profile(stream), _strips(stream))


def write_geotiff(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write the same to an open file, by way of memory."""
    file.write(encode_cog(_profile(stream), _strips(stream)))


def show_parts(path: Path, shown: Runs, hidden: Runs) -> None:
    """Rewrite a file of `save_geotiff`: its mask becomes 1 in the runs `shown`, 0 in `hidden`.

    Runs are int32 (n, 3), as `Building` has them.

    Raises:
        OSError: no room, or no right to write there.
    """

    def paint(row: int, pixels: NDArray[np.uint8]) -> None:
        for value, runs in ((1, shown), (0, hidden)):
            here = runs[(runs[:, 0] >= row) & (runs[:, 0] < row + pixels.shape[1])]
            for at, start, stop in here.tolist():
                pixels[0, at - row, start:stop] = value
                if len(pixels) > 1:  # mask and alpha
                    pixels[-1, at - row, start:stop] = value * OPACITY

    change_cog(path, paint)


def _profile(stream: SegmentedStream) -> Profile:
    image = stream.image
    assert image.georeference is not None, "check_grid comes first"
    return Profile(
        image.height,
        image.width,
        image.georeference,
        {name: _SCALES[name] for name in stream.plan.bands},
        stream.plan.transparent,
        _INVALID,
        {**COLOURS, _INVALID: (255, 255, 255)},
        {_TAGS.get(name, name): text for name, text in tags(stream.plan).items()},
    )


def _strips(stream: SegmentedStream) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for band in stream:
        drawn = [_PIXELS[name](band) for name in stream.plan.bands]
        if stream.plan.transparent:
            drawn.append(np.multiply(band.mask, OPACITY, dtype=np.uint8))
        pixels = np.stack(drawn)
        if band.valid is not None:
            pixels[:, ~band.valid] = _INVALID
        yield band.row, pixels


_PIXELS: dict[RasterBand, Callable[[Band], NDArray[np.uint8]]] = {
    "mask": lambda band: band.mask.astype(np.uint8),
    "probability": lambda band: to_steps(band.probability, _STEPS),
    "disagreement": lambda band: to_steps(band.disagreement, _STEPS),
}
