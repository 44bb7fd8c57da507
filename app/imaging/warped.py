"""Read a rectangle of an open GeoTIFF on another grid, such as that of map tiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from ..errors import UnsupportedImage
from .checks import check_samples, translate_errors
from .choices import Limits, Rgb
from .georeference import GeoReference
from .image import Image
from .raster import Raster

_OVERVIEW = 2048
"""Longest side, in pixels, of the overview by which a raster's light is judged."""


@dataclass(frozen=True)
class Look:
    """How a raster's samples become 8-bit RGB, the same for all of it, and where it lies.

    `limits` are None where 8-bit samples stay as they are. `bounds` are west, south, east and north
    in degrees.
    """

    limits: Limits | None
    rgb: Rgb | None
    bounds: tuple[float, float, float, float]


def look_of(source: DatasetReader, rescale: Limits | None, rgb: Rgb | None) -> Look:
    """Decide how a raster is shown. Without `rescale`, an overview of it is read.

    Raises:
        InvalidOption, DamagedImage, UnsupportedImage: as `Raster`.
        UnsupportedImage: it has no coordinate reference system, or no place on earth.
    """
    with translate_errors():
        if source.crs is None or source.transform.is_identity:
            raise UnsupportedImage("The raster has no georeference: it has no place on a map.")
        check_samples(source)
        west, south, east, north = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    if rescale is None:
        with _overview(source) as small:
            raster = Raster(small, None, {"rgb": rgb})
            raster.correct(sharpen=0)
            rescale = raster.limits
    return Look(rescale, rgb, (west, south, east, north))


def read_on_grid(
    source: DatasetReader, look: Look, place: GeoReference, height: int, width: int
) -> Image:
    """Read the raster on another grid of (height, width), from overviews where these suffice.

    Pixels outside of the raster are invalid.

    Raises:
        DamagedImage: it can't be read.
    """
    with (
        translate_errors(),
        _warped(source, place.crs, Affine(*place.transform), height, width) as grid,
    ):
        raster = Raster(grid, None, {"rescale": look.limits, "rgb": look.rgb})
        return Image(raster.read_pixels(0, height), raster.read_valid(0, height), place)


def _warped(
    source: DatasetReader, crs: object, transform: Affine, height: int, width: int
) -> WarpedVRT:
    """Open a raster on another grid. One without nodata and without alpha gets alpha."""
    paletted = source.colorinterp[0] is ColorInterp.palette
    nodata = source.nodata
    alpha = ColorInterp.alpha in source.colorinterp
    return WarpedVRT(
        source,
        crs=crs,
        transform=transform,
        height=height,
        width=width,
        resampling=Resampling.nearest if paletted else Resampling.cubic,
        add_alpha=nodata is None and not alpha,
        **({} if nodata is None else {"src_nodata": nodata, "nodata": nodata}),
    )


@contextmanager
def _overview(source: DatasetReader) -> Iterator[DatasetReader]:
    """Open a raster with its longest side cut to `_OVERVIEW` pixels."""
    factor = max(1.0, max(source.height, source.width) / _OVERVIEW)
    if factor == 1:
        yield source
        return
    height, width = (max(1, round(side / factor)) for side in (source.height, source.width))
    scale = Affine.scale(source.width / width, source.height / height)
    with (
        translate_errors(),
        _warped(source, source.crs, source.transform @ scale, height, width) as small,
    ):
        yield small
