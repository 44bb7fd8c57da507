"""Where an image lies on the earth, and how large its pixels are there."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import ProjError

from ..errors import ImpossibleOutput
from .choices import MAX_GSD, MIN_GSD

Gsd = tuple[float, float]
"""Metres on the ground from one pixel to the next, down and across."""

WGS84 = pyproj.Geod(ellps="WGS84")

_SAMPLED_ROWS = 129
"""Rows whose pixels are measured; those between are interpolated."""
_SPAN = 50.0
"""Metres on the ground over which a pixel's sides are measured."""
_VARIES = 0.01
"""Relative difference of areas along a row from which a notice tells it."""
_INACCURATE = 5.0
"""Metres. PROJ gives 4 for NAD83 to WGS 84, which is the usual difference of two good datums."""


@dataclass(frozen=True)
class GeoReference:
    """An image's coordinate reference system and its pixel-to-map transform.

    `crs` is WKT, or None when the file has a transform but names no system.
    `transform` is (a, b, c, d, e, f) with x = a·col + b·row + c and y = d·col + e·row + f, where
    (0, 0) is the outer corner of the first pixel. Source: rasterio's `Affine` order.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]

    @property
    def has_grid(self) -> bool:
        """Tell whether the transform gives every pixel a place and an area.

        Source: GDAL, where the identity stands for no transform.
        """
        a, b, c, d, e, f = self.transform
        identity = (a, b, c, d, e, f) == (1, 0, 0, 0, 1, 0)
        return all(map(math.isfinite, self.transform)) and a * e != b * d and not identity

    @staticmethod
    def required(georeference: "GeoReference | None") -> "GeoReference":
        """Return a georeference, for a format that can't do without.

        Raises:
            ImpossibleOutput: the image has none.
        """
        if georeference is None:
            raise ImpossibleOutput(
                "The image has no georeference, which this format needs. Give a GeoTIFF, or choose "
                "PNG or GeoJSON, which need none."
            )
        return georeference

    def check_grid(self) -> None:
        """Check that a map can be drawn on the transform.

        Raises:
            ImpossibleOutput: its pixels have no place or no area.
        """
        if not self.has_grid:
            raise ImpossibleOutput(
                f"The image's georeference has the transform {self.transform}, which gives its "
                "pixels no place or no area. Set the corners with gdal_edit.py -a_ullr, or warp it "
                "by its control points with gdalwarp."
            )

    def to_degrees(self) -> pyproj.Transformer:
        """Return the transformation of x and y to longitude and latitude on WGS 84.

        Raises:
            ImpossibleOutput: the coordinate reference system is missing, or can't be brought there.
        """
        remedy = "Name the right one, such as EPSG:32633, with gdal_edit.py -a_srs."
        if self.crs is None:
            raise ImpossibleOutput(
                f"The image's georeference names no coordinate reference system. {remedy}"
            )
        try:
            return _to_degrees(self.crs)
        except ProjError as error:
            raise ImpossibleOutput(
                f"The image's coordinate reference system {_name(self.crs)} has no known way to "
                f"longitude and latitude. {remedy}"
            ) from error

    def gsd(self, height: int, width: int) -> Gsd | None:
        """Return the GSD in the middle of an image of this size; None where it can't be told.

        Degrees, feet and the scale of a projection such as Web Mercator (1 / cos of the latitude)
        come out as metres on the ground. Use `pixel_area` for areas: its sides may not be at right
        angles.
        """
        return _gsd(self, height, width)

    def pixel_area(
        self, row: ArrayLike, col: ArrayLike, *, reach: float = 0.5
    ) -> NDArray[np.float64]:
        """Return the area on the ground, in m², of a pixel in the middle of which (row, col) lies.

        `row` and `col` count from the outer corner of the first pixel, and may be arrays. The area
        is the determinant of the Jacobian, here as the cross product of the pixel's sides: sheared
        and rotated grids, and projections that shear, have right areas. It is NaN where the
        coordinate reference system is not valid. Sides are measured from `reach` pixels before to
        as many behind.

        Raises:
            ImpossibleOutput: the coordinate reference system is missing or unknown.
        """
        down, across = self.sides(row, col, reach)
        area: NDArray[np.float64] = np.linalg.norm(np.cross(down, across), axis=-1)
        return area

    def row_areas(self, height: int, width: int) -> NDArray[np.float64] | None:
        """Return the area of a pixel of each row, in its middle: float64 (height,), in m².

        In degrees and in Web Mercator, pixels of the northernmost and southernmost rows differ.
        None where `gsd` is None.
        """
        gsd = self.gsd(height, width)
        if gsd is None:
            return None
        reach = self.reach(height, width)
        rows = np.linspace(reach, height - reach, min(height, _SAMPLED_ROWS))
        areas = self.pixel_area(rows, np.full_like(rows, width / 2), reach=reach)
        inside = np.isfinite(areas)
        if not inside.any():  # only the very middle is valid
            return np.full(height, gsd[0] * gsd[1])
        every = np.arange(height) + 0.5
        return np.asarray(np.interp(every, rows[inside], areas[inside]), np.float64)

    def area_notice(self, height: int, width: int) -> str | None:
        """Return a notice if areas differ by more than 1 % along a row, else None.

        `row_areas` uses the area in the middle of a row for all of it.
        """
        if self.gsd(height, width) is None:
            return None
        reach = self.reach(height, width)
        rows, cols = (np.linspace(reach, side - reach, 9) for side in (height, width))
        areas = self.pixel_area(*np.meshgrid(rows, cols, indexing="ij"), reach=reach)
        most = float(np.nanmax(np.abs(areas / areas[:, 4:5] - 1), initial=0.0))
        if most <= _VARIES:
            return None
        return (
            f"The ground area of a pixel differs by up to {most:.0%} along a row: total areas and "
            "min_area use the area in the middle of each row. Warp the image to an equal-area "
            "system such as EPSG:6933 with gdalwarp for better totals."
        )

    def position_notice(self, height: int, width: int) -> str | None:
        """Return a notice if longitude and latitude are known to be inaccurate, else None.

        PROJ calls a transformation ballpark if it does not know how one datum lies to the other.

        Raises:
            ImpossibleOutput: the coordinate reference system is missing or unknown.
        """
        to_degrees = self.to_degrees()
        assert self.crs is not None, "to_degrees raises"
        try:
            to_degrees.transform(*self.to_map([height / 2], [width / 2]), errcheck=True)
            used = to_degrees.get_last_used_operation()
        except ProjError:  # no place, which others tell; or nothing had to be done
            used = to_degrees
        name = _name(self.crs)
        if "ballpark" in (used.description or "").lower():
            return (
                f"It is not known how the datum of the coordinate reference system {name} lies to "
                "WGS 84: longitudes and latitudes may be some 100 m off. Name the right system, "
                "such as EPSG:23032, with gdal_edit.py -a_srs."
            )
        if used.accuracy > _INACCURATE:
            return (
                f"Longitudes and latitudes are accurate to about {used.accuracy:g} m: PROJ has no "
                f"better transformation from {name} to WGS 84."
            )
        return None

    def to_map(
        self, row: ArrayLike, col: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x and y of places in the image, as `pixel_area` counts these."""
        a, b, c, d, e, f = self.transform
        rows, cols = np.asarray(row, np.float64), np.asarray(col, np.float64)
        return a * cols + b * rows + c, d * cols + e * rows + f

    def sides(
        self, row: ArrayLike, col: ArrayLike, reach: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a pixel's sides, down and across: earth-centred vectors, (..., 3), in metres.

        Such vectors have no special cases at a pole or on the antimeridian.
        """
        rows, cols = np.asarray(row, np.float64), np.asarray(col, np.float64)
        top, bottom, left, right = (
            _earth_centred(*self.to_degrees().transform(*self.to_map(rows + down, cols + across)))
            for down, across in ((-reach, 0), (reach, 0), (0, -reach), (0, reach))
        )
        return (bottom - top) / (2 * reach), (right - left) / (2 * reach)

    def reach(self, height: int, width: int) -> float:
        """Return how many pixels to each side `sides` measures: `_SPAN` in all, at least a pixel.

        PROJ's places are good to a nanometre for most projections, but only to 0.1 m at the pole of
        an azimuthal one.
        """
        gsd = _believed(self.sides(height / 2, width / 2, 0.5))
        reach = _SPAN / 2 / min(gsd) if gsd else 0.5
        return max(0.5, min(reach, height / 2, width / 2))


def mean_gsd(gsd: Gsd) -> float:
    """Return the GSD of square pixels of the same area, in metres per pixel."""
    return math.sqrt(math.prod(gsd))


def crs_name(place: GeoReference) -> str | None:
    """Return the name of a coordinate reference system, its code where it has one."""
    if place.crs is None:
        return None
    try:
        crs = pyproj.CRS.from_user_input(place.crs)
    except ProjError:
        return place.crs[:80]
    code = crs.to_json_dict().get("id", {})
    return f"{code['authority']}:{code['code']}" if "code" in code else crs.name[:80]


def corners(place: GeoReference, height: int, width: int) -> list[tuple[float, float]] | None:
    """Return longitude and latitude of the outer corners of an image; None where not known.

    Clockwise from the first pixel's: top left, top right, bottom right, bottom left.
    """
    if place.gsd(height, width) is None:
        return None
    on_map = place.to_map([0, 0, height, height], [0, width, width, 0])
    lon, lat = place.to_degrees().transform(*on_map)
    if not (np.isfinite(lon) & np.isfinite(lat) & is_on_earth(lon, lat)).all():
        return None
    return [(round(x, 9), round(y, 9)) for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]


def _believed(sides: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Gsd | None:
    """Return the length of a pixel's sides, down and across, if pixels can have it."""
    down, across = (float(np.linalg.norm(side)) for side in sides)
    known = all(MIN_GSD <= metres <= MAX_GSD for metres in (down, across))
    return (down, across) if known else None


@lru_cache(maxsize=64)
def _gsd(place: GeoReference, height: int, width: int) -> Gsd | None:
    """Measure as `GeoReference.gsd`: decoder, plan and writers ask about the same image."""
    if place.crs is None or not place.has_grid:
        return None
    try:
        _to_degrees(place.crs)
        if pyproj.CRS(place.crs).is_geocentric:  # x, y and z
            return None
    except ProjError:
        return None
    return _believed(place.sides(height / 2, width / 2, place.reach(height, width)))


@lru_cache(maxsize=16)
def _to_degrees(crs: str) -> pyproj.Transformer:
    """Look the transformation up, which takes 20 to 80 ms.

    Threads may share it: pyproj opens it anew for each.
    """
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def is_on_earth(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which longitudes and latitudes are places, in degrees.

    PROJ takes any number for degrees. Longitudes may be counted from 0 to 360, and an image may
    lie across that line.
    """
    somewhere: NDArray[np.bool_] = (np.abs(lon) <= 540) & (np.abs(lat) <= 90 + 1e-9)
    return somewhere


def _earth_centred(lon: ArrayLike, lat: ArrayLike) -> NDArray[np.float64]:
    """Return the places on the ellipsoid WGS 84, (..., 3), in metres; NaN for what is no place.

    Source: Snyder, "Map Projections: A Working Manual", USGS 1395, 1987, eq. 4-20.
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    somewhere = is_on_earth(lon, lat)
    lon, lat = (np.where(somewhere, np.radians(degrees), np.nan) for degrees in (lon, lat))
    normal = WGS84.a / np.sqrt(1 - WGS84.es * np.sin(lat) ** 2)
    parallel = normal * np.cos(lat)
    return np.stack(
        [parallel * np.cos(lon), parallel * np.sin(lon), (1 - WGS84.es) * normal * np.sin(lat)],
        axis=-1,
    )


def _name(crs: str) -> str:
    """Quote a system's name, in at most 80 characters."""
    try:
        name = pyproj.CRS.from_user_input(crs).name
    except ProjError:
        name = crs
    return repr(name[:80])
