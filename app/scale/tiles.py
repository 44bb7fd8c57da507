"""Files as tiles of one map: which of them share a pixel grid, and which are neighbours."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import shapely

from ..imaging.georeference import GeoReference
from ..imaging.grids import moved, place_on
from .sources import File


@dataclass(frozen=True, kw_only=True)
class Tile(File):
    """A file and its place on a map.

    `mosaic` is the number of its grid; `row` and `col` are where its first pixel lies on that, and
    are known once the tiles are laid out.
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
    """Give each tile its place on a grid; those that fit on no other's begin one of their own.

    They come in the order of their ids. Where tiles overlap, a pixel belongs to the first of them
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
