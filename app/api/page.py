"""The page: static files, and headers that let the browser load from this service alone."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from ..settings import Settings
from .answers import accepted
from .ogc import landing_page
from .parameters import RESULT_TYPES, choose_formats

_WEB = Path(__file__).parents[1] / "web"
_HTML, _JSON = "text/html", "application/json"
_MAP = "maplibre"
"""Package whose folder `srcjs` holds MapLibre GL JS: the extra `map`."""


def install(app: FastAPI, settings: Settings) -> None:
    """Serve the page and its files. Their links are relative, for any path prefix of a proxy."""
    has_map = find_spec(_MAP) is not None
    headers = _headers(settings.basemap, has_map)
    files = Files(headers, directory=_WEB)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """Return the page to a browser, and to others the links of OGC API in JSON."""
        response: Response = Response(landing_page().model_dump_json(), media_type=_JSON)
        accept = accepted(request).lower()
        # Where both are preferred equally, JSON comes first, unless HTML is named.
        types = [_HTML, _JSON] if _HTML in accept else [_JSON, _HTML]
        if choose_formats(None, accept, dict(zip(types, types, strict=True)))[0] == _HTML:
            response = await files.get_response("index.html", request.scope)
        response.headers["Vary"] = "Accept"
        return response

    @app.get("/page.json", include_in_schema=False)
    async def page_settings() -> JSONResponse:
        basemap = {"url": settings.basemap, "attribution": settings.basemap_attribution}
        body = {
            "map": has_map,
            "basemap": basemap if settings.basemap else None,
            "formats": [*RESULT_TYPES],
        }
        return JSONResponse(body, headers=headers)

    app.mount("/page", Files(headers, directory=_WEB / "page"))
    if has_map:
        app.mount("/map", Files(headers, packages=[(_MAP, "srcjs")]))


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


class Files(StaticFiles):
    """Static files with headers of their own, which come whole.

    Starlette refuses a bad `Range` in plain text, and takes one with HEAD. A server may ignore
    `Range`.
    Source: RFC 9110, section 14.2.
    """

    def __init__(self, headers: Mapping[str, str], **where: Any) -> None:
        super().__init__(**where)
        self._headers = headers

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file at a path."""
        scope["headers"] = [(name, of) for name, of in scope["headers"] if name != b"range"]
        response = await super().get_response(path, scope)
        response.headers.update({**self._headers, "Accept-Ranges": "none"})
        return response
