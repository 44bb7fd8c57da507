"""The page for a person: static files, and a policy that holds the browser to this service."""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from .answers import accepted
from .ogc import landing_page

_WEB = Path(__file__).parents[1] / "web"

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Files of two releases must not meet in one page: a browser asks whether its copy is current.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """Return the page to a browser, and to others the links of OGC API in JSON.

    All that the page asks for is relative: a proxy may have put it anywhere.
    """
    vary = {"Vary": "Accept"}
    if "text/html" in accepted(request).lower():
        return FileResponse(_WEB / "index.html", headers={**_HEADERS, **vary})
    landing = landing_page().model_dump_json()
    return Response(landing, media_type="application/json", headers=vary)


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def install(app: FastAPI) -> None:
    """Serve the page and the files that it is made of."""
    app.include_router(router)
    app.mount("/page", _Files(directory=_WEB / "page"))
