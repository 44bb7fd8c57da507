"""A tile with a margin of its neighbours, as the networks see it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..imaging.image import RowSource
from ..segmentation.stream import Band
from .tiles import Tile, moved

Part = tuple[Tile, RowSource]


class NeighbourAtFault(Exception):
    """A neighbour of a tile can't be read; the tile itself can."""

    def __init__(self, neighbour: Tile, error: Exception) -> None:
        super().__init__(f"{neighbour.name}: {error}")
        self.neighbour = neighbour


@dataclass(frozen=True, eq=False)
class _Piece:
    """A tile's part of some rows of a mosaic.

    `here` is its place in these rows, `rows` and `cols` its place in the tile's own image. `owned`,
    bool (h, w), is True where the pixels belong to the tile.
    """

    tile: Tile
    image: RowSource
    here: tuple[slice, slice]
    rows: tuple[int, int]
    cols: slice
    owned: NDArray[np.bool_]


class Mosaic:
    """A `RowSource`: a tile, and around it a margin of `margin` pixels from its neighbours.

    A pixel belongs to the first tile, in the order of their ids, in which it is valid. There is no
    margin where no neighbour reaches, so a tile alone is the same as its image.
    """

    def __init__(
        self, tile: Tile, image: RowSource, neighbours: Sequence[Part], margin: int
    ) -> None:
        self._tile = tile
        self._parts = sorted([(tile, image), *neighbours], key=lambda part: part[0].id)
        boxes = np.array([part.box for part, _ in self._parts])
        first = np.maximum(boxes[:, :2].min(axis=0), np.array(tile.box[:2]) - margin)
        last = np.minimum(boxes[:, 2:].max(axis=0), np.array(tile.box[2:]) + margin)
        self._row, self._col = map(int, first)
        self.height, self.width = map(int, last - first)
        self.georeference = moved(tile.georeference, self._row - tile.row, self._col - tile.col)
        self.gsd = self.georeference.gsd(self.height, self.width)
        self.notices = image.notices

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the tile itself."""
        top, left = self._tile.row - self._row, self._tile.col - self._col
        return slice(top, top + self._tile.height), slice(left, left + self._tile.width)

    def read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop`: uint8 (stop - start, width, 3), RGB.

        Where no tile is valid, the first that reaches there shows its own pixels: the networks see
        them in an image of its own too.
        """
        pixels = np.zeros((stop - start, self.width, 3), np.uint8)
        shown = np.zeros((stop - start, self.width), np.bool_)
        for piece in self._pieces(start, stop):
            with self._at_fault(piece.tile):
                read = piece.image.read_pixels(*piece.rows)[:, piece.cols]
            new = piece.owned | ~shown[piece.here]
            pixels[piece.here][new] = read[new]
            shown[piece.here] = True
        return pixels

    def read_valid(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which pixels of these rows are valid, bool; None where all of them are."""
        valid = self.owners(start, stop) >= 0
        return None if valid.all() else valid

    def owners(self, start: int, stop: int) -> NDArray[np.int8]:
        """Return the owner of each pixel of these rows, int8 (stop - start, width).

        0 is the tile, 1 a neighbour, -1 none. Rows above the first and below the last have none.
        """
        owners = np.full((stop - start, self.width), -1, np.int8)
        top, end = max(start, 0), min(stop, self.height)
        for piece in self._pieces(top, end):
            inside = owners[top - start : end - start][piece.here]
            inside[piece.owned] = 0 if piece.tile is self._tile else 1
        return owners

    def crop(self, bands: Iterable[Band]) -> Iterator[Band]:
        """Cut bands to the tile's own pixels, and mark those beside another tile's as a seam."""
        rows, cols = self.core
        for band in bands:
            start, stop = max(band.row, rows.start), min(band.rows.stop, rows.stop)
            if start >= stop:
                continue
            owners = np.pad(self.owners(start - 1, stop + 1), ((0, 0), (1, 1)), constant_values=-1)
            others = owners > 0
            seam = others[:-2, 1:-1] | others[2:, 1:-1] | others[1:-1, :-2] | others[1:-1, 2:]
            mine = (owners[1:-1, 1:-1] == 0)[:, cols]
            inside = (slice(start - band.row, stop - band.row), cols)
            disagreement = None if band.disagreement is None else band.disagreement[inside]
            yield replace(
                band,
                row=start - rows.start,
                probability=np.where(mine, band.probability[inside], np.float32(0)),
                mask=band.mask[inside] & mine,
                valid=None if mine.all() else mine,
                disagreement=disagreement,
                seam=seam[:, cols] if seam.any() else None,
            )

    def _pieces(self, start: int, stop: int) -> Iterator[_Piece]:
        """Yield each tile's part of some rows."""
        claimed = np.zeros((stop - start, self.width), np.bool_)
        for tile, image in self._parts:
            top, left, bottom, right = tile.box
            first, last = max(top, self._row + start), min(bottom, self._row + stop)
            west, east = max(left, self._col), min(right, self._col + self.width)
            if first >= last or west >= east:
                continue
            above, before = self._row + start, self._col
            here = slice(first - above, last - above), slice(west - before, east - before)
            rows, cols = (first - top, last - top), slice(west - left, east - left)
            with self._at_fault(tile):
                valid = image.read_valid(*rows)
            owned = ~claimed[here]
            if valid is not None:
                owned &= valid[:, cols]
            claimed[here] |= owned
            yield _Piece(tile, image, here, rows, cols, owned)

    @contextmanager
    def _at_fault(self, tile: Tile) -> Iterator[None]:
        try:
            yield
        except (InputError, OSError) as error:
            if tile is self._tile:
                raise
            raise NeighbourAtFault(tile, error) from error
