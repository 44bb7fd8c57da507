"""Middleware: an id, a count and a log line for each request; absolute targets; answers to HEAD."""

import logging
import re
import uuid
from time import perf_counter
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problems import METHODS
from .tracing import name_request

logger = logging.getLogger("rooftrace.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")
_ABSOLUTE = re.compile(rb"https?://(?:[^/@]*@)?([^/@]+)", re.IGNORECASE)


class RequestLog:
    """Give each request an id, and count and log how it ended.

    A request that tells its length twice is the last of its connection.

    Plain ASGI: Starlette's BaseHTTPMiddleware would put a task and a queue between the endpoint
    and its streamed answers.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        # A known method: never the client's text.
        method = scope["method"] if scope["method"] in METHODS else "other"
        request = Headers(scope=scope)
        sent_id = request.get("x-request-id", "")
        # A client's own id is kept when it can't break a log line or a header.
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else str(uuid.uuid4())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        name_request(request_id)
        status, received, sent = 500, 0, 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                # A proxy may have read the other length. Source: RFC 9112, section 6.1.
                if "transfer-encoding" in request and "content-length" in request:
                    headers["Connection"] = "close"
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive_counted, send_with_id)
        finally:
            seconds = perf_counter() - started
            route = scope.get("route")
            # The template, or the folder of static files: never the client's text.
            mount = scope["root_path"].removeprefix(scope.get("app_root_path", scope["root_path"]))
            path = getattr(route, "path", mount or "unmatched")
            self._metrics.requests.labels(path, method, status).inc()
            self._metrics.request_duration.labels(path).observe(seconds)
            problem = state.get("problem", "Internal error" if status >= 500 else None)
            if problem:
                self._metrics.problems.labels(problem).inc()
            fields = {
                "request_id": request_id,
                "method": method,
                "path": path,
                "status": status,
                "problem": problem,
                "ms": round(1000 * seconds, 1),
                "stages_ms": {s: round(1000 * t, 1) for s, t in state.get("stages", {}).items()},
                "received_bytes": received,
                "sent_bytes": sent,
            }
            line = "%s %s %d %.0f ms %s"
            values = method, path, status, 1000 * seconds, request_id
            logger.info(line, *values, extra={"fields": fields})


class OriginForm:
    """Take a target with scheme and host, as clients send it to a proxy, for its path and query.

    Uvicorn takes it for a path. The target's host goes before `Host`.
    Source: RFC 9112, section 3.2.2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and (target := _ABSOLUTE.match(scope.get("raw_path") or b"")):
            path = scope["raw_path"][target.end() :] or b"/"
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            headers.append((b"host", target[1]))
            scope.update(raw_path=path, path=unquote(path.decode("ascii")), headers=headers)
        await self._app(scope, receive, send)


class Head:
    """Answer HEAD wherever GET is, with the same headers and no body.

    FastAPI does not. As methods of the routes, HEAD would double every operation of the OpenAPI
    document. Source: RFC 9110, section 9.3.2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        scope["method"] = "GET"  # in place: the router adds the route to this scope, for the log
        await self._app(scope, receive, send_without_body)
