"""Files as tiles of one map: which of them share a pixel grid, and which are neighbours."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pyproj
import shapely

from ..imaging.georeference import GeoReference
from .sources import File

_OFF_GRID = 0.01
"""Pixels by which an image may lie off a grid and still count as on it."""


@dataclass(frozen=True, kw_only=True)
class Tile(File):
    """A file and its place on a map.

    `mosaic` is the number of its grid, `row` and `col` are the place of its first pixel there.
    `lay_out` sets all three.
    """

    georeference: GeoReference
    height: int
    width: int
    area: float
    """Area on the ground, in m²."""
    mosaic: int = 0
    row: int = 0
    col: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return its first row and column on the grid, and those after its last."""
        return self.row, self.col, self.row + self.height, self.col + self.width


def lay_out(tiles: Iterable[Tile]) -> list[Tile]:
    """Give each tile its place on a grid. A tile that is on no other's grid begins a new one.

    The result is in the order of the tiles' ids. Where tiles overlap, a pixel belongs to the first
    in which it is valid.
    """
    laid: list[Tile] = []
    grids: list[GeoReference] = []
    for tile in sorted(tiles, key=lambda tile: tile.id):
        places = (place_on(grid, tile.georeference) for grid in grids)
        found = next(((n, place) for n, place in enumerate(places) if place is not None), None)
        if found is None:
            found = len(grids), (0, 0)
            grids.append(tile.georeference)
        mosaic, (row, col) = found
        laid.append(replace(tile, mosaic=mosaic, row=row, col=col))
    return laid


def moved(grid: GeoReference, row: int, col: int) -> GeoReference:
    """Return the same grid with its origin moved to the pixel (row, col) of `grid`."""
    a, b, _, d, e, _ = grid.transform
    x, y = grid.to_map(row, col)
    return replace(grid, transform=(a, b, float(x), d, e, float(y)))


def place_on(grid: GeoReference, image: GeoReference) -> tuple[int, int] | None:
    """Return the row and column of an image's first pixel on a grid; None if it is not on it."""
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


def grid_of(tile: Tile) -> GeoReference:
    """Return the grid on which a tile was laid out."""
    return moved(tile.georeference, -tile.row, -tile.col)


def with_neighbours(
    tiles: Sequence[Tile], margins: Sequence[int]
) -> Iterator[tuple[Tile, list[Tile]]]:
    """Yield each tile with those that reach into its margin, in the order of their ids.

    `margins` are pixels of each tile. Tiles are as `lay_out` returns them.
    """
    by_mosaic: dict[int, list[int]] = {}
    for number, tile in enumerate(tiles):
        by_mosaic.setdefault(tile.mosaic, []).append(number)
    for numbers in by_mosaic.values():
        tree = shapely.STRtree([shapely.box(*tiles[number].box) for number in numbers])
        for number in numbers:
            top, left, bottom, right = tiles[number].box
            margin = margins[number]
            reached = shapely.box(top - margin, left - margin, bottom + margin, right + margin)
            found = sorted(numbers[near] for near in tree.query(reached, "intersects"))
            yield tiles[number], [tiles[near] for near in found if near != number]
