"""Live map tiles, and their TileJSON."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import Path, Query, Request, Response

from .. import errors
from ..segmentation.options import TileOptions
from .answers import Calling
from .headers import BINARY, RESULT_HEADERS, header
from .problems import responses
from .schemas import TileJson, TileSourceInfo, TileSources
from .service import Running, Service, checked_router
from .uploads import unless_gone

if TYPE_CHECKING:
    from ..tiles.live import LiveTiles

T = TypeVar("T")

router = checked_router("tiles")

_Source = Annotated[
    str, Path(description="name of a source, as `/tiles` lists it", examples=["city"])
]
_Zoom = Annotated[int, Path(description="zoom; TileJSON tells those that work", examples=[18])]
_Column = Annotated[int, Path(description="column, from the west", examples=[62260])]
_Row = Annotated[int, Path(description="row, from the north", examples=[101738])]
_Parameters = Annotated[TileOptions, Query()]

_FAILURES = (
    errors.NoSuchTile,
    errors.InvalidOption,
    errors.SourceDown,
    errors.QueueFull,
    errors.DeadlineExceeded,
)
_SHARED = ("X-Request-Id", "X-Model-Version", "X-Execution-Provider")
_TILE_HEADERS = {
    **{name: RESULT_HEADERS[name] for name in _SHARED},
    "Cache-Control": header("how long clients may keep the tile", "public, max-age=3600"),
    "ETag": header("identifies these bytes, for `If-None-Match`", '"3f4b4c7e9a510a8a"'),
}


@router.get("/tiles", summary="The sources of live tiles", response_description="The sources")
async def tile_sources(service: Running) -> TileSources:
    """List the sources that the operator has named, without a request to any of them."""
    sources = service.settings.tile_sources
    return TileSources(
        sources=[
            TileSourceInfo(name=name, attribution=source.attribution, tilejson=f"tiles/{name}")
            for name, source in sources.items()
        ]
    )


@router.get(
    "/tiles/{source}",
    summary="A source as TileJSON",
    response_description="The TileJSON",
    responses=responses(*_FAILURES),
)
async def tile_json(call: Calling, source: _Source, parameters: _Parameters) -> TileJson:
    """Describe a source: where it lies, which zooms work, and the addresses of its tiles."""
    request, service = call.request, call.service
    map = _live(service).find(source)
    trained = call.segmenter.manifest.gsd
    async with service.admission.admit():
        running = service.admission.run(
            lambda: (map.source.bounds(), map.middle(), map.zooms(trained)), call.deadline
        )
        (west, south, east, north), middle, zooms = await unless_gone(request, running)
    if not zooms:
        raise errors.InvalidOption(
            f"No zoom of the source {source!r} has a GSD that the models know, which is "
            f"{trained.min:g} to {trained.max:g} m."
        )
    query = urlencode(parameters.model_dump(exclude_unset=True))
    root = service.settings.public_url or str(request.base_url)
    return TileJson(
        name=f"Buildings in {source}",
        attribution=service.settings.tile_sources[source].attribution,
        tiles=[
            f"{root.rstrip('/')}/tiles/{source}/{{z}}/{{x}}/{{y}}.png"
            + (f"?{query}" if query else "")
        ],
        minzoom=zooms[0],
        maxzoom=zooms[-1],
        # TileJSON 3.0, section 3.2: bounds must not wrap around the antimeridian.
        bounds=(west, south, east, north) if west < east else (-180.0, south, 180.0, north),
        center=(*middle, float(zooms[-1])),
    )


@router.get(
    "/tiles/{source}/{z}/{x}/{y}.png",
    summary="One tile of buildings",
    response_class=Response,
    responses={
        200: {
            "description": "Buildings tinted and outlined; transparent elsewhere",
            "headers": _TILE_HEADERS,
            "content": {"image/png": {"schema": BINARY}},
        },
        304: {"description": "The client's copy is current"},
        **responses(*_FAILURES, errors.InferenceError),
    },
)
async def tile(
    call: Calling, source: _Source, z: _Zoom, x: _Column, y: _Row, parameters: _Parameters
) -> Response:
    """Return the buildings of a map tile of 256 x 256 pixels in Web Mercator."""
    request, service, deadline = call.request, call.service, call.deadline
    live, segmenter = _live(service), call.segmenter
    made = live.kept(source, z, x, y, parameters, segmenter)
    if made is None:

        async def run(work: Callable[[], T], size: int) -> T:
            def in_memory() -> T:
                with service.admission.memory.for_image(size, deadline.check):
                    return work()

            return await service.admission.run(in_memory, deadline)

        async with service.admission.admit():
            making = live.make(source, z, x, y, parameters, segmenter, run, deadline.check)
            made = await unless_gone(request, making)
    service.metrics.tiles.labels(made.origin).inc()
    tag = f'"{hashlib.sha256(made.png).hexdigest()[:16]}"'
    scope = "private" if service.settings.api_keys else "public"
    headers = {
        "ETag": tag,
        "Cache-Control": f"{scope}, max-age={service.settings.tile_max_age:.0f}",
        "X-Model-Version": segmenter.manifest.version,
        "X-Execution-Provider": ", ".join(segmenter.predictor.providers_in_use),
    }
    if _has_it(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(made.png, media_type="image/png", headers=headers)


def _live(service: Service) -> "LiveTiles":
    if service.tiles is None:
        raise errors.NoSuchTile(
            "This service has no sources of tiles. Its operator names them in the setting "
            "ROOFTRACE_TILE_SOURCES."
        )
    return service.tiles


def _has_it(request: Request, tag: str) -> bool:
    """Tell whether the client has a tile already. Source: RFC 9110, section 13.1.2."""
    named = ",".join(request.headers.getlist("if-none-match")).split(",")
    return not {"*", tag}.isdisjoint(name.strip().removeprefix("W/") for name in named)
