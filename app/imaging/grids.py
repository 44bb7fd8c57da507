"""Pixel grids that go on beyond one image: which images lie on the same one, and where."""

import math
from dataclasses import replace
from functools import lru_cache

import pyproj

from .georeference import GeoReference

_OFF_GRID = 0.01
"""Pixels by which an image may lie beside a grid and still be on it."""


def moved(grid: GeoReference, row: int, col: int) -> GeoReference:
    """Return the grid counted from another pixel: (row, col) of `grid` is its (0, 0)."""
    a, b, c, d, e, f = grid.transform
    x, y = a * col + b * row + c, d * col + e * row + f
    return replace(grid, transform=(a, b, x, d, e, y))


def place_on(grid: GeoReference, image: GeoReference) -> tuple[int, int] | None:
    """Return the row and column of an image's first pixel on a grid; None if it lies beside it."""
    a, b, c, d, e, f = grid.transform
    sides = zip((a, b, d, e), (*image.transform[:2], *image.transform[3:5]), strict=True)
    if not all(math.isclose(*pair, rel_tol=1e-9, abs_tol=1e-12) for pair in sides):
        return None
    if not _same(grid.crs, image.crs):
        return None
    x, y = image.transform[2] - c, image.transform[5] - f
    area = a * e - b * d
    col, row = (e * x - b * y) / area, (a * y - d * x) / area
    if max(abs(col - round(col)), abs(row - round(row))) > _OFF_GRID:
        return None
    return round(row), round(col)


@lru_cache(maxsize=1024)
def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return bool(pyproj.CRS(one) == pyproj.CRS(other))
