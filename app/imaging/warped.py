"""Read a rectangle of an open GeoTIFF on another grid, such as that of map tiles."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from ..errors import UnsupportedImage
from .checks import check_samples, translate_errors
from .choices import Limits, Rgb
from .georeference import WGS84, GeoReference, crs_name
from .image import Image
from .place import read_place
from .raster import Raster

_OVERVIEW = 2048
"""Longest side, in pixels, of the overview by which a raster's light is judged."""
_SAMPLES = 9
"""Points of a raster, from west to east, that show how far it lies beyond the antimeridian."""
_VERTICAL = 1e-9
"""Degrees of longitude by which a vertical line may miss a meridian."""
_ASTRAY = 5.0
"""Metres that GDAL may draw a raster off its place: WKT 1 does not tell all methods apart, and
between two datums GDAL may choose another transformation than pyproj."""


@dataclass(frozen=True)
class Look:
    """How a raster's samples become 8-bit RGB, the same for all of it, and where it lies.

    `limits` are None where 8-bit samples stay as they are. GDAL finds the raster at `places`: more
    than one where it goes on beyond the antimeridian. `bounds` are west, south, east and north in
    degrees, from -180 to 180; west exceeds east where the raster crosses the antimeridian.
    """

    limits: Limits | None
    rgb: Rgb | None
    places: tuple[GeoReference, ...]
    bounds: tuple[float, float, float, float]


def look_of(source: DatasetReader, rescale: Limits | None, rgb: Rgb | None) -> Look:
    """Decide how a raster is shown. Without `rescale`, an overview of it is read.

    Raises:
        InvalidOption, DamagedImage, UnsupportedImage: as `Raster`.
        UnsupportedImage: it has no coordinate reference system, or no place on earth.
    """
    with translate_errors():
        place, _, _ = read_place(source, "TIFF")
        if place is None or place.crs is None or not place.has_grid:
            raise UnsupportedImage("The raster has no georeference: it has no place on a map.")
        check_samples(source)
        bounds, places = _degrees(source, place), _turned(source, place)
    if rescale is None:
        with _overview(source, place) as small:
            raster = Raster(small, None, {"rgb": rgb})
            raster.correct(sharpen=0)
            rescale = raster.limits
    return Look(rescale, rgb, places, bounds)


def read_on_grid(
    source: DatasetReader, look: Look, place: GeoReference, height: int, width: int
) -> Image:
    """Read the raster on another grid of (height, width), from overviews where these suffice.

    Pixels outside of the raster are invalid.

    Raises:
        DamagedImage: it can't be read.
    """
    pixels = np.zeros((height, width, 3), np.uint8)
    valid = np.zeros((height, width), np.bool_)
    grid = Affine(*place.transform)
    for shown in look.places:
        with translate_errors(), _warped(source, shown, place.crs, grid, height, width) as warped:
            raster = Raster(warped, None, {"rescale": look.limits, "rgb": look.rgb})
            read, seen = raster.read_pixels(0, height), raster.read_valid(0, height)
        new = ~valid if seen is None else seen & ~valid
        pixels[new], valid[new] = read[new], True
    return Image(pixels, None if valid.all() else valid, place)


def _degrees(source: DatasetReader, place: GeoReference) -> tuple[float, float, float, float]:
    """Return the bounds of a raster, as `Look` has them.

    Raises:
        ImpossibleOutput: its coordinate reference system is unknown.
        UnsupportedImage: it has no place on earth, or GDAL would draw it elsewhere.
    """
    to_degrees = place.to_degrees()
    west, south, east, north = to_degrees.transform_bounds(*_box(source, place))
    middle = place.to_map([source.height / 2], [source.width / 2])
    lon, lat = to_degrees.transform(*middle)
    drawn_by = CRS.from_wkt(CRS.from_wkt(place.crs).to_wkt())  # WKT 1, as `WarpedVRT` writes it
    _, _, metres = WGS84.inv(lon, lat, *transform(drawn_by, "EPSG:4326", *middle))
    if not (np.isfinite([west, south, east, north]).all() and metres[0] <= _ASTRAY):
        raise UnsupportedImage(
            f"The raster's coordinate reference system {crs_name(place)} is not valid where it "
            "lies, or can't be drawn as tiles. Warp it with gdalwarp -t_srs EPSG:3857, and name "
            "its own system with -s_srs, such as -s_srs EPSG:9311."
        )
    if east - west >= 360:
        return -180.0, south, 180.0, north
    turn = 360 * math.floor((west + 180) / 360)  # longitudes may be counted to 360 and on
    west, east = west - turn, east - turn
    return west, south, east - 360 if east > 180 else east, north


def _box(source: DatasetReader, place: GeoReference) -> tuple[float, float, float, float]:
    down, across = source.height, source.width
    x, y = place.to_map([0, 0, down, down], [0, across, 0, across])
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _turned(source: DatasetReader, place: GeoReference) -> tuple[GeoReference, ...]:
    """Return the places at which GDAL finds the parts of a raster.

    Where meridians are vertical, as in degrees and in Web Mercator, a raster may go on beyond the
    antimeridian. GDAL looks where PROJ puts longitudes from -180 to 180, and nowhere else. So the
    part beyond has a place of its own, moved by a whole turn about the earth.
    """
    west, south, east, north = _box(source, place)
    inside = (east - west) / source.width / 2
    x = np.linspace(west + inside, east - inside, _SAMPLES)
    to_degrees = place.to_degrees()
    lon, lat = to_degrees.transform(x, np.full(_SAMPLES, south))
    upper, _ = to_degrees.transform(x, np.full(_SAMPLES, north))
    beyond = [0.0]
    if np.allclose(lon, upper, rtol=0, atol=_VERTICAL):
        found, _ = to_degrees.transform((lon + 180) % 360 - 180, lat, direction="INVERSE")
        far = np.where(np.abs(x - found) < inside, 0, x - found)  # there and back is not exact
        beyond = np.unique(np.round(far, 3)).tolist()
    a, b, c, d, e, f = place.transform
    return tuple(GeoReference(place.crs, (a, b, c - far, d, e, f)) for far in beyond)


def _warped(
    source: DatasetReader,
    place: GeoReference,
    crs: object,
    transform: Affine,
    height: int,
    width: int,
) -> WarpedVRT:
    """Open a raster that lies at `place` on another grid.

    A raster without nodata and without alpha gets alpha.
    """
    paletted = source.colorinterp[0] is ColorInterp.palette
    nodata = source.nodata
    alpha = ColorInterp.alpha in source.colorinterp
    return WarpedVRT(
        source,
        src_crs=place.crs,
        src_transform=Affine(*place.transform),
        crs=crs,
        transform=transform,
        height=height,
        width=width,
        resampling=Resampling.nearest if paletted else Resampling.cubic,
        add_alpha=nodata is None and not alpha,
        **({} if nodata is None else {"src_nodata": nodata, "nodata": nodata}),
    )


@contextmanager
def _overview(source: DatasetReader, place: GeoReference) -> Iterator[DatasetReader]:
    """Open a raster with its longest side cut to `_OVERVIEW` pixels."""
    factor = max(1.0, max(source.height, source.width) / _OVERVIEW)
    if factor == 1:
        yield source
        return
    height, width = (max(1, round(side / factor)) for side in (source.height, source.width))
    scale = Affine.scale(source.width / width, source.height / height)
    with (
        translate_errors(),
        _warped(source, place, place.crs, source.transform @ scale, height, width) as small,
    ):
        yield small
