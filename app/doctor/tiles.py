"""Read imagery of each source of live tiles."""

from collections.abc import Iterator
from functools import partial

from ..segmentation.stream import never
from ..tiles.live import LiveTiles
from ..tiles.maps import Map
from .finding import Finding, look

_ZOOM = 18
"""The zoom at which sources are read, where they have it: 0.6 m per pixel at the equator."""
_ADVICE = "Compare ROOFTRACE_TILE_SOURCES with the file or the host. `bounds` tells where it lies."


def imagery(live: LiveTiles) -> Iterator[Finding]:
    """Read the middle of each source."""
    for source in live.maps.values():
        yield from look("live tiles", partial(_middle, source), _ADVICE)


def _middle(map: Map) -> Iterator[Finding]:
    zooms = map.source.zooms
    valid = map.read_middle(max(zooms[0], min(_ZOOM, zooms[-1])), never).valid
    if valid is None or valid.any():
        yield Finding("live tiles", "ok", f"the source {map.name!r} can be read")
    else:
        found = f"the source {map.name!r} has no imagery in its middle"
        yield Finding("live tiles", "warning", found, _ADVICE)
