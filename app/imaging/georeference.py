"""Where an image lies on the earth, and how large its pixels are there."""

import math
from dataclasses import dataclass

import pyproj
from pyproj.exceptions import ProjError

Gsd = tuple[float, float]
"""Metres on the ground from one pixel to the next, down and across."""

_ELLIPSOID = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True)
class GeoReference:
    """Carry an image's coordinate reference system and its pixel-to-map transform.

    `crs` is WKT, or None when the file has a transform but names no system.
    `transform` is (a, b, c, d, e, f) with x = a·col + b·row + c and y = d·col + e·row + f, where
    (0, 0) is the outer corner of the first pixel. Source: rasterio's `Affine` order.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]

    def gsd(self, height: int, width: int) -> Gsd | None:
        """Return the GSD in the middle of an image of this size; None where it can't be told.

        Measured as geodesics on WGS 84, so that degrees, feet and the scale of a projection such as
        Web Mercator (1 / cos of the latitude) come out as metres on the ground.
        """
        if self.crs is None:
            return None
        a, b, c, d, e, f = self.transform
        row, col = height / 2, width / 2
        steps = [(row, col), (row + 1, col), (row, col + 1)]
        try:
            to_degrees = pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)
            (lon, lat), *neighbours = (
                to_degrees.transform(a * c_ + b * r + c, d * c_ + e * r + f, errcheck=True)
                for r, c_ in steps
            )
            down, across = (_ELLIPSOID.inv(lon, lat, *other)[2] for other in neighbours)
        except ProjError:
            return None
        known = all(math.isfinite(metres) and metres > 0 for metres in (down, across))
        return (down, across) if known else None
