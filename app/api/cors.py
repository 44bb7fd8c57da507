"""CORS: which pages of other origins may use the service.

Source: the CORS protocol of the Fetch standard (fetch.spec.whatwg.org, section 3.3).
"""

from collections.abc import Collection

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .headers import RESULT_HEADERS

ANY_ORIGIN = "*"

EXPOSED = (
    *RESULT_HEADERS,
    "Content-Disposition",
    "Cache-Control",
    "ETag",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "WWW-Authenticate",
)
"""Headers that a page may read beside those that every page may, such as Content-Type."""

_MAX_AGE = 7200
"""Seconds that a browser may remember a preflight: Chromium's maximum."""


class Cors:
    """Let pages of the named origins send requests and read every answer, problems included.

    Starlette's CORSMiddleware refuses in plain text. Here the preflight of another origin goes on
    to the application, whose routes do not take OPTIONS, and so it gets a problem.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not self._origins:
            await self._app(scope, receive, send)
            return
        request = Headers(scope=scope)
        granted = self._granted(request.get("origin"))

        async def send_granted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(granted)
                if ANY_ORIGIN not in self._origins:
                    headers.add_vary_header("Origin")
            await send(message)

        if granted and scope["method"] == "OPTIONS" and "access-control-request-method" in request:
            allowed = {
                "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
                "Access-Control-Allow-Headers": request.get("access-control-request-headers", "*"),
                "Access-Control-Max-Age": str(_MAX_AGE),
            }
            await Response(status_code=204, headers=allowed)(scope, receive, send_granted)
        else:
            await self._app(scope, receive, send_granted)

    def _granted(self, origin: str | None) -> dict[str, str]:
        if origin is None or not {origin, ANY_ORIGIN} & set(self._origins):
            return {}
        return {
            "Access-Control-Allow-Origin": ANY_ORIGIN if ANY_ORIGIN in self._origins else origin,
            "Access-Control-Expose-Headers": ", ".join(EXPOSED),
        }
