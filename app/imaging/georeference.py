"""Where an image lies on the earth, and how large its pixels are there."""

import math
from dataclasses import dataclass

import pyproj
from pyproj.exceptions import ProjError

from app.errors import ImpossibleOutput

Gsd = tuple[float, float]
"""Metres on the ground from one pixel to the next, down and across."""

MIN_GSD, MAX_GSD = 0.001, 100_000.0
"""Metres per pixel between which a GSD is believed; the square of 1e-300 is 0, and divides none."""

WGS84 = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True)
class GeoReference:
    """Carry an image's coordinate reference system and its pixel-to-map transform.

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
        """Return what brings x and y to longitude and latitude on WGS 84.

        Raises:
            ImpossibleOutput: the coordinate reference system is missing, or can't be brought there.
        """
        remedy = "Name the right one, such as EPSG:32633, with gdal_edit.py -a_srs."
        if self.crs is None:
            raise ImpossibleOutput(
                f"The image's georeference names no coordinate reference system. {remedy}"
            )
        try:
            return pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)
        except ProjError as error:
            raise ImpossibleOutput(
                f"The image's coordinate reference system {_name(self.crs)} has no known way to "
                f"longitude and latitude. {remedy}"
            ) from error

    def gsd(self, height: int, width: int) -> Gsd | None:
        """Return the GSD in the middle of an image of this size; None where it can't be told.

        Measured as geodesics on WGS 84, so that degrees, feet and the scale of a projection such as
        Web Mercator (1 / cos of the latitude) come out as metres on the ground.
        """
        if self.crs is None or not self.has_grid:
            return None
        a, b, c, d, e, f = self.transform
        row, col = height / 2, width / 2
        steps = [(row, col), (row + 1, col), (row, col + 1)]
        try:
            if pyproj.CRS(self.crs).is_geocentric:  # x, y and z
                return None
            to_degrees = self.to_degrees()
            (lon, lat), *neighbours = (
                to_degrees.transform(a * c_ + b * r + c, d * c_ + e * r + f, errcheck=True)
                for r, c_ in steps
            )
            down, across = (WGS84.inv(lon, lat, *other)[2] for other in neighbours)
        except (ImpossibleOutput, ProjError):
            return None
        known = all(MIN_GSD <= metres <= MAX_GSD for metres in (down, across))
        return (down, across) if known else None


def _name(crs: str) -> str:
    """Quote what a system calls itself, at no length."""
    try:
        name = pyproj.CRS.from_user_input(crs).name
    except ProjError:
        name = crs
    return repr(name[:80])
