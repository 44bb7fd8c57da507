"""A map of a source: it predicts blocks of tiles, and draws tiles from their probabilities."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..bundle.manifest import GsdRange
from ..errors import InvalidOption, NoSuchTile
from ..imaging.encode import write_tile_png
from ..imaging.image import Image
from ..imaging.limits import BYTES_PER_PIXEL
from ..imaging.resample import resample_box
from ..imaging.sharpness import sharpen_soft, sharpening_for
from ..segmentation.options import Options, TileOptions
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import Band, Cancelled
from .cache import Cache
from .grid import (
    BLOCK,
    TILE,
    Area,
    Block,
    Lattice,
    Tile,
    lattice_of,
    pixel_at,
    working_zooms,
)
from .sources import Cog, Source, Xyz
from .spec import TileSource

_REACH = 8
"""Pixels around what is read, for sharpening and for the kernel that resamples."""
_SAMPLE = 512
"""Side, in pixels, of the square in the middle of a source by which its sharpness is judged."""


@dataclass(frozen=True, eq=False)
class Probabilities:
    """A block's probabilities, float32 (side, side), and `margin` pixels around it."""

    block: Block
    margin: int
    values: NDArray[np.float32]

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes to draw a tile."""
        return BYTES_PER_PIXEL * self.values.size


class Map:
    """The tiles of one source."""

    def __init__(self, name: str, spec: TileSource, source: Source, cache: Cache) -> None:
        self.name, self.spec, self.source = name, spec, source
        self._cache = cache

    def check(self, tile: Tile, trained: GsdRange) -> None:
        """Check that a tile of the world lies in the source, and that the models know its GSD.

        Raises:
            NoSuchTile: it lies outside of the source.
            InvalidOption: the zoom does not work here.
            SourceDown: the source's bounds can't be read.
        """
        west, south, east, north = tile.bounds
        if tile.z not in self.source.zooms or not trained.knows(tile.gsd):
            zooms = working_zooms(((south + north) / 2,), trained, self.source.zooms)
            which = f"{zooms[0]} to {zooms[-1]}" if zooms else "none"
            raise InvalidOption(
                f"Zoom {tile.z} has {tile.gsd:.3g} m per pixel here. The models know "
                f"{trained.min:g} to {trained.max:g} m. Zooms that work: {which}."
            )
        left, bottom, right, top = self.source.bounds()
        beside = west >= right, east <= left
        apart = any(beside) if left <= right else all(beside)
        if apart or south >= top or north <= bottom:
            raise NoSuchTile(
                f"Tile {tile.z}/{tile.x}/{tile.y} lies outside of the source {self.name!r}, which "
                f"reaches from {left:.5f}, {bottom:.5f} to {right:.5f}, {top:.5f} (longitude, "
                "latitude)."
            )

    def middle(self) -> tuple[float, float]:
        """Return longitude and latitude of the middle of the bounds."""
        west, south, east, north = self.source.bounds()
        lon = (west + east) / 2 + (180 if west > east else 0)
        return lon - 360 if lon > 180 else lon, (south + north) / 2

    def read_middle(self, zoom: int, cancelled: Cancelled) -> Image:
        """Read imagery from the middle of the source at one zoom.

        Raises:
            SourceDown: it can't be read.
            Exception: any that `cancelled` raises.
        """
        column, row = pixel_at(*self.middle(), zoom)
        half = _SAMPLE // 2
        return self.source.read(Area(zoom, column - half, row - half, _SAMPLE, _SAMPLE), cancelled)

    def zooms(self, trained: GsdRange) -> list[int]:
        """Return the zooms that work somewhere in the source."""
        _, south, _, north = self.source.bounds()
        latitudes = south, (south + north) / 2, north
        return working_zooms(latitudes, trained, self.source.zooms)

    def predict(
        self, block: Block, options: TileOptions, segmenter: Segmenter, cancelled: Cancelled
    ) -> Probabilities:
        """Predict a block, each pixel from all patches of the lattice that reach it.

        Raises:
            SourceDown: its imagery can't be read.
            InferenceError: a member failed.
            Exception: any that `cancelled` raises.
        """
        lattice = _lattice(block, segmenter)
        image = self._seen(block, lattice, cancelled)
        plan = segmenter.plan(image, _prediction(options, lattice))
        values = np.empty(plan.size, np.float32)
        for band in segmenter.bands(plan, image, cancelled):
            values[band.rows] = band.probability
        margin, scale = lattice.margin, lattice.scale
        first = lattice.stride - margin * scale
        last = lattice.stride * (1 + lattice.windows) + margin * scale
        side = block.area(margin).width
        drawn = resample_box(values, (first, first, last, last), (side, side), "bilinear")
        return Probabilities(block, margin, np.clip(drawn, 0, 1))

    def _seen(self, block: Block, lattice: Lattice, cancelled: Cancelled) -> Image:
        """Read a block as the members see it, with all patches that reach into it."""
        reach = lattice.side / lattice.scale
        before = int(np.ceil(-lattice.start)) + _REACH
        side = before + int(np.ceil(lattice.start + reach)) + _REACH
        corner = block.area()
        area = Area(block.z, corner.left - before, corner.top - before, side, side)
        image = mirror_beyond(self.source.read(area, cancelled))
        image = sharpen_soft(image, self._sharpening(block.z, cancelled))
        start = before + lattice.start
        box = start, start, start + reach, start + reach
        size = lattice.side, lattice.side
        valid = None
        if image.valid is not None:
            shown = np.multiply(image.valid, 255, dtype=np.uint8)
            valid = resample_box(shown, box, size, "bilinear") > 127
        return Image(resample_box(image.pixels, box, size, "bicubic"), valid)

    def _sharpening(self, zoom: int, cancelled: Cancelled) -> int:
        """Return by how many per cent a zoom is sharpened: as asked, else as its middle needs."""
        if self.spec.sharpen is not None:
            return self.spec.sharpen
        if self.spec.is_template and self.spec.bounds is None:
            return 0  # the middle of the world tells nothing
        key = "sharpening", self.name, zoom
        kept = self._cache.get(key)
        if not isinstance(kept, int):
            kept = sharpening_for(self.read_middle(zoom, cancelled))
            self._cache.put(key, kept, 100)
        return kept


def mirror_beyond(image: Image) -> Image:
    """Fill invalid pixels with the imagery's mirror image; they stay invalid.

    Flat colour beyond an edge looks like a roof. A pixel whose mirrored place has no imagery gets
    the nearest valid pixel.
    """
    valid = image.valid
    if valid is None or not valid.any():
        return image
    nearest: NDArray[np.int32] = np.asarray(
        ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    )
    rows, cols = nearest[0], nearest[1]
    row, col = np.ogrid[: image.height, : image.width]
    mirrored_row = np.clip(2 * rows - row, 0, image.height - 1)
    mirrored_col = np.clip(2 * cols - col, 0, image.width - 1)
    there = valid[mirrored_row, mirrored_col]
    rows, cols = np.where(there, mirrored_row, rows), np.where(there, mirrored_col, cols)
    return Image(image.pixels[rows, cols], valid, image.georeference)


def draw(known: Probabilities, tile: Tile, options: TileOptions, segmenter: Segmenter) -> bytes:
    """Draw the buildings of a tile as PNG: transparent where there is none.

    Components are those of the whole block and of its margin.
    """
    side = len(known.values)
    place = known.block.area(known.margin).georeference
    nothing = np.broadcast_to(np.uint8(0), (side, side, 3))
    image = Image(nothing, None, place, (), place.gsd(side, side))
    plan = segmenter.plan(image, Options(**options.model_dump(), resample="off"))
    band = Band(0, known.values, known.values >= plan.threshold)
    mask = stream(plan, image, [band]).assemble(lambda held: held.mask)
    top = known.margin + TILE * (tile.y - known.block.row * BLOCK)
    left = known.margin + TILE * (tile.x - known.block.column * BLOCK)
    file = BytesIO()
    write_tile_png(file, mask, slice(top, top + TILE), slice(left, left + TILE))
    return file.getvalue()


def block_key(map: Map, block: Block, options: TileOptions, segmenter: Segmenter) -> Hashable:
    """Return a key of everything that a block's probabilities depend on.

    The threshold matters only if it turns the cascade off.
    """
    lattice = _lattice(block, segmenter)
    image = Image(np.broadcast_to(np.uint8(0), (lattice.side, lattice.side, 3)))
    cascade = segmenter.plan(image, _prediction(options, lattice)).cascade
    return segmenter.manifest.version, map.name, block, cascade


def memory_of(block: Block, segmenter: Segmenter) -> int:
    """Return how many bytes it takes to predict a block."""
    return BYTES_PER_PIXEL * _lattice(block, segmenter).side ** 2


def open_maps(specs: Mapping[str, TileSource], timeout: float, cache: Cache) -> dict[str, Map]:
    """Return the maps of the sources that the operator names; no host is asked yet.

    A host has `timeout` seconds to answer.
    """
    return {
        name: Map(name, spec, (Xyz if spec.is_template else Cog)(name, spec, timeout, cache), cache)
        for name, spec in specs.items()
    }


def _lattice(block: Block, segmenter: Segmenter) -> Lattice:
    manifest = segmenter.manifest
    return lattice_of(block, manifest.gsd, manifest.patch_size)


def _prediction(options: TileOptions, lattice: Lattice) -> Options:
    return Options(threshold=options.threshold, overlap=lattice.overlap, resample="off")
