"""The geometry of map tiles: their places, their GSD, and the patches that predict them.

Tiles are 256 x 256 pixels in Web Mercator, numbered from the north-west. Patches lie on one lattice
for a whole map. So the probability of a pixel does not depend on which tile was asked for, or asked
for before, and no seam shows.
"""

import math
from dataclasses import dataclass

import morecantile
import pyproj

from ..bundle.manifest import GsdRange
from ..errors import NoSuchTile
from ..imaging.georeference import GeoReference
from .spec import MAX_ZOOM

TILE = 256
"""Pixels of a tile's side."""
BLOCK = 2
"""Tiles of a block's side: predicted together, which spares work at their edges."""
_SIDE = BLOCK * TILE
_OVERLAP = 0.25
_BAND = 9
"""Zoom whose tiles share one scale, that of their middle; 40 km high in mid latitudes."""

_MERCATOR = morecantile.tms.get("WebMercatorQuad")
_WKT = pyproj.CRS(3857).to_wkt()

WORLD: tuple[float, float, float, float] = _MERCATOR.bbox
"""West, south, east and north of the world of tiles, in degrees."""


@dataclass(frozen=True)
class Tile:
    """A tile by its zoom, column and row."""

    z: int
    x: int
    y: int

    def check(self) -> None:
        """Check that the world has such a tile.

        Raises:
            NoSuchTile: it has not.
        """
        if not (0 <= self.z <= MAX_ZOOM and 0 <= self.x < 2**self.z and 0 <= self.y < 2**self.z):
            raise NoSuchTile(
                f"There is no tile {self.z}/{self.x}/{self.y}: z goes from 0 to {MAX_ZOOM}, x "
                "and y from 0 to 2^z - 1."
            )

    @property
    def gsd(self) -> float:
        """Metres on the ground per pixel, in the middle of the tile."""
        _, south, _, north = self.bounds
        return gsd_at(self.z, (south + north) / 2)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north in degrees."""
        return _MERCATOR.bounds(morecantile.Tile(self.x, self.y, self.z))

    @property
    def block(self) -> "Block":
        """The block that the tile belongs to."""
        return Block(self.z, self.x // BLOCK, self.y // BLOCK)


@dataclass(frozen=True)
class Area:
    """A rectangle of a zoom's pixels, counted from the north-west of the world."""

    z: int
    left: int
    top: int
    width: int
    height: int

    @property
    def georeference(self) -> GeoReference:
        """Where it lies."""
        west, north = _MERCATOR.matrix(0).pointOfOrigin
        metres = resolution(self.z)
        return GeoReference(
            _WKT, (metres, 0.0, west + self.left * metres, 0.0, -metres, north - self.top * metres)
        )


@dataclass(frozen=True)
class Block:
    """Tiles that are predicted together: `BLOCK` x `BLOCK`."""

    z: int
    column: int
    row: int

    def area(self, margin: int = 0) -> Area:
        """Return its pixels, and `margin` more to each side."""
        side = _SIDE + 2 * margin
        return Area(self.z, self.column * _SIDE - margin, self.row * _SIDE - margin, side, side)

    @property
    def gsd(self) -> float:
        """Metres on the ground per pixel, the same for all blocks of one band of latitudes.

        So the lattice of patches goes on from block to block.
        """
        above = max(0, self.z - _BAND)
        band = Tile(min(self.z, _BAND), 0, (self.row * BLOCK) >> above)
        return band.gsd * 2.0 ** (band.z - self.z)


@dataclass(frozen=True)
class Lattice:
    """How the members see a block: `windows` patches a side, `stride` of their pixels apart.

    Their pixels are `scale` times as many as the tile's. A block is read with the patches that
    reach into it: from one stride before it to the end of the last that begins in it.
    """

    patch: int
    stride: int
    windows: int

    @property
    def scale(self) -> float:
        """Pixels that the members see per pixel of a tile."""
        return self.windows * self.stride / _SIDE

    @property
    def side(self) -> int:
        """Pixels of a block's side as the members see it, with all patches that reach into it."""
        return self.windows * self.stride + self.patch

    @property
    def overlap(self) -> float:
        """Share of a patch that neighbours share."""
        return 1 - self.stride / self.patch

    @property
    def start(self) -> float:
        """Pixels of the tile from the block's edge to the first patch; negative."""
        return -self.stride / self.scale

    @property
    def margin(self) -> int:
        """Pixels of the tile around a block whose probabilities are known too."""
        return math.floor((self.patch - self.stride) / self.scale)


def lattice_of(block: Block, trained: GsdRange, patch: int) -> Lattice:
    """Choose the lattice of a block's patches.

    A whole number of strides covers a block. So the members are shown a GSD that differs from the
    one that they would be shown in an upload, by less than 1 %.
    """
    wanted = _SIDE * block.gsd / trained.shown(block.gsd)
    windows = max(1, round(wanted / (patch * (1 - _OVERLAP))))
    return Lattice(patch, min(patch, round(wanted / windows)), windows)


def resolution(zoom: int) -> float:
    """Return metres of Web Mercator per pixel of a zoom."""
    return float(_MERCATOR.matrix(zoom).cellSize)


def gsd_at(zoom: int, latitude: float) -> float:
    """Return metres on the ground per pixel of a zoom.

    Source: the scale of the Mercator projection is 1 / cos(latitude).
    """
    return resolution(zoom) * math.cos(math.radians(latitude))


def pixel_at(longitude: float, latitude: float, zoom: int) -> tuple[int, int]:
    """Return the column and the row of the pixel at a place."""
    x, y = _MERCATOR.xy(longitude, latitude)
    west, north = _MERCATOR.matrix(0).pointOfOrigin
    metres = resolution(zoom)
    return math.floor((x - west) / metres), math.floor((north - y) / metres)


def working_zooms(latitudes: tuple[float, ...], trained: GsdRange, zooms: range) -> list[int]:
    """Return those of `zooms` whose GSD the models know at one of these latitudes."""
    return [
        zoom
        for zoom in zooms
        if any(trained.knows(gsd_at(zoom, latitude)) for latitude in latitudes)
    ]
