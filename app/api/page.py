"""The page: static files, and headers that let the browser load from this service alone."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from ..settings import Settings
from .answers import accepted
from .ogc import landing_page

_WEB = Path(__file__).parents[1] / "web"
_MAP = "maplibre"
"""Package whose folder `srcjs` holds MapLibre GL JS: the extra `map`."""


def install(app: FastAPI, settings: Settings) -> None:
    """Serve the page and its files. Their links are relative, for any path prefix of a proxy."""
    has_map = find_spec(_MAP) is not None
    headers = _headers(settings.basemap, has_map)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """Return the page to a browser, and to others the links of OGC API in JSON."""
        vary = {"Vary": "Accept"}
        if "text/html" in accepted(request).lower():
            return FileResponse(_WEB / "index.html", headers={**headers, **vary})
        landing = landing_page().model_dump_json()
        return Response(landing, media_type="application/json", headers=vary)

    @app.get("/page.json", include_in_schema=False)
    async def page_settings() -> JSONResponse:
        basemap = {"url": settings.basemap, "attribution": settings.basemap_attribution}
        body = {"map": has_map, "basemap": basemap if settings.basemap else None}
        return JSONResponse(body, headers=headers)

    app.mount("/page", _Files(headers, directory=_WEB / "page"))
    if has_map:
        app.mount("/map", _Files(headers, packages=[(_MAP, "srcjs")]))


def _headers(basemap: str | None, has_map: bool) -> dict[str, str]:
    """Return the headers of the page and of its files.

    They let the browser ask this host alone, and that of the basemap if the operator names one.
    """
    basemap_host = ""
    if basemap and (parts := urlsplit(basemap)).netloc:
        basemap_host = f" {parts.scheme}://{parts.netloc}"
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' blob: data:{basemap_host}",
        "connect-src": f"'self'{basemap_host}",
        # MapLibre starts its workers from blobs of its own code.
        **({"worker-src": "blob:"} if has_map else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        # Files of two releases must not meet in one page: a browser asks whether its copy is
        # current.
        "Cache-Control": "no-cache",
    }


class _Files(StaticFiles):
    """Static files with the headers of the page."""

    def __init__(self, headers: dict[str, str], **where: Any) -> None:
        super().__init__(**where)
        self._headers = headers

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file at a path."""
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response
