"""The tiles of all sources, each computed once and kept for a while."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from ..errors import NoSuchTile
from ..segmentation.options import TileOptions
from ..segmentation.segmenter import Segmenter
from ..segmentation.stream import Cancelled
from .cache import Cache, Shared
from .grid import Tile
from .maps import Map, Probabilities, block_key, draw, memory_of, open_maps
from .spec import TileSource

T = TypeVar("T")

_OVERHEAD = 1000
"""Bytes that keeping a value takes beside its own."""

Origin = Literal["kept", "drawn", "predicted"]
"""Where a tile came from: memory, probabilities in memory, or the models."""


@dataclass(frozen=True)
class Made:
    """A tile as PNG, and where it came from."""

    png: bytes
    origin: Origin


class Run(Protocol):
    """Runs work in a thread, in its turn, once `size` bytes of memory are free for it."""

    def __call__(self, work: Callable[[], T], size: int) -> Coroutine[Any, Any, T]:
        """Return what the work returns."""


class LiveTiles:
    """The maps of some sources, with a cache. Used on one event loop."""

    def __init__(self, specs: Mapping[str, TileSource], timeout: float, cache: Cache) -> None:
        self._cache = cache
        self._predicting = Shared[Probabilities]()
        self.maps = open_maps(specs, timeout, cache)

    def find(self, name: str) -> Map:
        """Return a map by its name.

        Raises:
            NoSuchTile: there is none.
        """
        if name not in self.maps:
            raise NoSuchTile(
                f"There is no source {name[:64]!r}. GET /tiles lists those that there are."
            )
        return self.maps[name]

    def kept(
        self, name: str, z: int, x: int, y: int, options: TileOptions, segmenter: Segmenter
    ) -> Made | None:
        """Return a tile that is kept in memory as PNG; None if it is not.

        Raises:
            NoSuchTile: no source of this name, or no tile of these numbers.
        """
        map, tile = self.find(name), Tile(z, x, y)
        tile.check()
        png = self._cache.get(_key(map, tile, options, segmenter))
        return Made(png, "kept") if isinstance(png, bytes) else None

    async def make(
        self,
        name: str,
        z: int,
        x: int,
        y: int,
        options: TileOptions,
        segmenter: Segmenter,
        run: Run,
        cancelled: Cancelled,
    ) -> Made:
        """Make a tile. Requests that need the same block wait for one prediction.

        Raises:
            NoSuchTile, InvalidOption, SourceDown: as `Map.check`.
            Exception: as `Map.predict`.
        """
        map, tile = self.find(name), Tile(z, x, y)
        await run(partial(map.check, tile, segmenter.manifest.gsd), 0)
        key = block_key(map, tile.block, options, segmenter)
        origin: Origin = "drawn"
        known = self._cache.get(key)

        async def predict() -> Probabilities:
            work = partial(map.predict, tile.block, options, segmenter, cancelled)
            predicted = await run(work, memory_of(tile.block, segmenter))
            self._cache.put(key, predicted, predicted.values.nbytes)
            return predicted

        if not isinstance(known, Probabilities):
            origin = "predicted"
            known = await self._predicting.get(key, predict)
        png = await run(partial(draw, known, tile, options, segmenter), known.memory)
        self._cache.put(_key(map, tile, options, segmenter), png, len(png) + _OVERHEAD)
        return Made(png, origin)

    def close(self) -> None:
        """Close the sources."""
        for map in self.maps.values():
            map.source.close()


def _key(map: Map, tile: Tile, options: TileOptions, segmenter: Segmenter) -> tuple[object, ...]:
    return block_key(map, tile.block, options, segmenter), tile, options.model_dump_json()
