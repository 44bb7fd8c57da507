"""Imagery of a map: a COG, or the tiles of another server."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InputError, SourceDown, UnsupportedFormat
from ..imaging.choices import parse_rescale, parse_rgb
from ..imaging.decode import decode_image
from ..imaging.gdal import GDAL_ERRORS, open_path, open_remote
from ..imaging.image import Image
from ..imaging.resample import resample
from ..imaging.sniff import Format, sniff_file
from ..imaging.warped import Look, look_of, read_on_grid
from ..segmentation.stream import Cancelled
from .cache import Cache
from .grid import TILE, WORLD, Area
from .remote import RemoteFile
from .spec import MAX_ZOOM, TileSource
from .web import CONNECTIONS, Web

Bounds = tuple[float, float, float, float]
"""West, south, east and north in degrees; west exceeds east across the antimeridian."""

_MAX_TILE = 1024**2
"""Pixels of another server's tile."""
_AS_IS = ((0.0, 255.0),) * 3


class Source(Protocol):
    """Imagery that tiles are made of."""

    zooms: range
    """Zooms that the source has."""

    def bounds(self) -> Bounds:
        """Return where there is imagery.

        Raises:
            SourceDown: it can't be read.
        """

    def read(self, area: Area, cancelled: Cancelled) -> Image:
        """Read pixels of a zoom. Those that the source does not have are invalid.

        Raises:
            SourceDown: it can't be read.
            Exception: any that `cancelled` raises.
        """

    def close(self) -> None:
        """Close connections and threads."""


class Cog:
    """A GeoTIFF, Cloud Optimized or not, on disk or on a web server."""

    zooms = range(MAX_ZOOM + 1)

    def __init__(self, name: str, spec: TileSource, timeout: float, cache: Cache) -> None:
        self._name, self._spec, self._cache = name, spec, cache
        self._web = Web(name, timeout) if spec.is_remote else None
        self._lock = threading.Lock()

    def bounds(self) -> Bounds:
        """Return where it lies, or the part of it that the operator names."""
        return self._spec.bounds or self._look().bounds

    def read(self, area: Area, cancelled: Cancelled) -> Image:
        """Read an area on the grid of the tiles."""
        look = self._look()
        cancelled()
        with self._open() as source:
            return read_on_grid(source, look, area.georeference, area.height, area.width)

    def close(self) -> None:
        """Close the connections."""
        if self._web:
            self._web.close()

    def _look(self) -> Look:
        with self._lock:  # one thread looks, the others wait for it
            look = self._cache.get(("look", self._name))
            if not isinstance(look, Look):
                rescale, rgb = parse_rescale(self._spec.rescale), parse_rgb(self._spec.rgb)
                with self._open() as source:
                    look = look_of(source, rescale, rgb)
                self._cache.put(("look", self._name), look, 1000)
        return look

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Open it. Any error becomes SourceDown, as it is not the client's fault."""
        file = RemoteFile(self._web, self._spec.url, self._cache) if self._web else None
        try:
            with self._dataset(file) as source:
                yield source
        except SourceDown:
            raise
        except (InputError, *GDAL_ERRORS) as error:
            if file is not None and file.error is not None:
                raise file.error from error
            why = str(error) if isinstance(error, InputError) else "It is no TIFF that can be read."
            raise SourceDown(f"The source {self._name!r} can't be read. {why}") from error

    def _dataset(self, file: RemoteFile | None) -> AbstractContextManager[Any]:
        if file is not None:
            return open_remote(file.open, "GTiff")
        path = Path(self._spec.url)
        if sniff_file(path) is not Format.TIFF:
            raise UnsupportedFormat("It is no TIFF.")
        return open_path(path, "GTiff")


class Xyz:
    """The tiles of another server, by a template of their addresses."""

    def __init__(self, name: str, spec: TileSource, timeout: float, cache: Cache) -> None:
        self._name, self._spec, self._cache = name, spec, cache
        self.zooms = range(spec.min_zoom, spec.max_zoom + 1)
        self._web = Web(name, timeout)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="tile-source")
        self._limits = parse_rescale(spec.rescale) or _AS_IS
        self._rgb = parse_rgb(spec.rgb)

    def bounds(self) -> Bounds:
        """Return the part of the world that the operator names, else all of it."""
        return self._spec.bounds or WORLD

    def read(self, area: Area, cancelled: Cancelled) -> Image:
        """Put an area together from tiles."""
        pixels = np.zeros((area.height, area.width, 3), np.uint8)
        valid = np.zeros((area.height, area.width), np.bool_)
        places = [
            (row, column)
            for row in range(area.top // TILE, (area.top + area.height - 1) // TILE + 1)
            for column in range(area.left // TILE, (area.left + area.width - 1) // TILE + 1)
        ]
        reading = [self._threads.submit(partial(self._tile, area.z, *place)) for place in places]
        try:
            for (row, column), tile in zip(places, reading, strict=True):
                cancelled()
                image = tile.result()
                if image is not None:
                    top, left = row * TILE - area.top, column * TILE - area.left
                    inside = (
                        slice(max(0, -top), area.height - top),
                        slice(max(0, -left), area.width - left),
                    )
                    rows = slice(max(0, top), top + TILE)
                    cols = slice(max(0, left), left + TILE)
                    pixels[rows, cols] = image.pixels[inside]
                    valid[rows, cols] = True if image.valid is None else image.valid[inside]
        finally:
            for tile in reading:
                tile.cancel()
        return Image(pixels, None if valid.all() else valid, area.georeference)

    def close(self) -> None:
        """Close the connections, and drop what waits for them."""
        self._threads.shutdown(cancel_futures=True)
        self._web.close()

    def _tile(self, z: int, y: int, x: int) -> Image | None:
        """Read one tile, 256 x 256; None where the server has none. Columns wrap around."""
        count = 2**z
        if not 0 <= y < count:
            return None
        address = self._spec.url
        for name, value in {"z": z, "x": x % count, "y": y, "-y": count - 1 - y}.items():
            address = address.replace(f"{{{name}}}", str(value))
        image: Image | None
        if kept := self._cache.get(("tile", address)):
            [image] = kept
            return image
        response = self._web.get(address)
        image = self._decode(response.content) if response.status_code == 200 else None
        # In a tuple, as None is kept too: the server has no such tile.
        self._cache.put(("tile", address), (image,), 1000 + (4 * TILE**2 if image else 0))
        return image

    def _decode(self, data: bytes) -> Image:
        """Decode a tile without corrections: those of a single tile would show at its edges."""
        try:
            image = decode_image(
                data, max_pixels=_MAX_TILE, rescale=self._limits, sharpen=0, rgb=self._rgb
            )
        except InputError as error:
            raise self._web.failed(f"sent a tile that can't be read: {error}") from error
        if image.pixels.shape[:2] == (TILE, TILE):
            return image
        valid = None
        if image.valid is not None:
            valid = resample(np.multiply(image.valid, 255, dtype=np.uint8), TILE, TILE) > 127
        return Image(resample(image.pixels, TILE, TILE), valid)
