"""Every error a client can see, as `application/problem+json`: one table, class → status and title.

Source: RFC 9457, Problem Details for HTTP APIs.
"""

import logging
import math
import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import errors
from ..outputs.choices import FormatName
from ..segmentation.options import InferenceOptions
from .schemas import EXAMPLE_ID, Problem

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[errors.RooftraceError], tuple[int, str]] = {
    errors.MalformedUpload: (400, "Malformed upload"),
    errors.EmptyUpload: (400, "Empty upload"),
    errors.InvalidInputs: (400, "Invalid inputs"),
    errors.KeyMissing: (401, "Key missing"),
    errors.KeyRefused: (403, "Key refused"),
    errors.NoSuchProcess: (404, "No such process"),
    errors.NoSuchJob: (404, "No such job"),
    errors.ResultNotReady: (404, "Result not ready"),
    errors.NoSuchTile: (404, "No such tile"),
    errors.NotAcceptable: (406, "Not acceptable"),
    errors.UploadTimeout: (408, "Upload timeout"),
    errors.UploadTooLarge: (413, "Upload too large"),
    errors.UnsupportedFormat: (415, "Unsupported format"),
    errors.DamagedImage: (422, "Damaged image"),
    errors.UnsupportedImage: (422, "Unsupported image"),
    errors.InvalidOption: (422, "Invalid option"),
    errors.ImpossibleOutput: (422, "Impossible output"),
    errors.RateExceeded: (429, "Rate exceeded"),
    errors.ClientGone: (499, "Client gone"),  # nginx's number, for the log: nobody reads it
    errors.InferenceError: (500, "Inference failed"),
    errors.SourceDown: (502, "Source down"),
    errors.QueueFull: (503, "Queue full"),
    errors.NotReady: (503, "Not ready"),
    errors.JobsAway: (503, "Jobs away"),
    errors.DeadlineExceeded: (504, "Deadline exceeded"),
    errors.StorageFull: (507, "Storage full"),
}
"""Subclasses of one entry take its status."""

_OGC = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/"
_TYPES = {
    "No such process": f"{_OGC}no-such-process",
    "No such job": f"{_OGC}no-such-job",
    "Result not ready": f"{_OGC}result-not-ready",
}
"""Types that a standard names, by title. Source: OGC 18-062r2, sections 7.10 to 7.13."""

_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses that come with Retry-After."""

METHODS = "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"

RETRY_AFTER = 2
"""Seconds that a client is asked to wait after a 503: a few patches' time."""


def problem_of(error: Exception, request_id: str) -> Problem:
    """Describe an error as a problem. Only the log has the details of a fault of the service."""
    kind = next((kind for kind in type(error).__mro__ if kind in STATUS), None)
    if kind is None:
        logger.error("request %s failed", request_id, exc_info=error)
        return _internal_error(request_id)
    status, title = STATUS[kind]
    detail = str(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request %s: %s", request_id, error)
        detail = "A model failed; the log says which."
    return _problem(status, title, detail, request_id)


def problem_of_job(ended_with: Mapping[str, str], request_id: str) -> Problem:
    """Describe the error that a job ended with; `ended_with` has its class and its message."""
    kind = getattr(errors, ended_with["kind"], None)
    if kind not in STATUS:
        return _internal_error(request_id)
    error: errors.RooftraceError = kind(ended_with["detail"])
    return problem_of(error, request_id)


def _internal_error(request_id: str) -> Problem:
    detail = "This is a fault of the service, not of the request. Its log has the details."
    return _problem(500, "Internal error", detail, request_id)


def _problem(status: int, title: str, detail: str, request_id: str) -> Problem:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower())
    return Problem(
        type=_TYPES.get(title, f"urn:rooftrace:{slug}"),
        title=title,
        status=status,
        detail=detail,
        instance=f"urn:rooftrace:request:{request_id}",
    )


def unreadable_request() -> Problem:
    """Describe a request that is not HTTP, and so never reached the application."""
    detail = "The request is not HTTP/1.1 as RFC 9112 has it. Check its length and its headers."
    return _problem(400, "Malformed request", detail, str(uuid.uuid4()))


def problem_response(
    request: Request, problem: Problem, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a problem, and leave its title for the log and the metrics."""
    request.state.problem = problem.title
    headers = dict(headers or {})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER)
    return Response(
        problem.model_dump_json(), problem.status, headers=headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Turn every error that `app` raises on purpose, or FastAPI for it, into a problem.

    The handlers are async because others would run in threads, and a burst is refused while those
    that segment need the processor.
    """
    app.add_exception_handler(errors.RooftraceError, _domain_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)
    app.add_exception_handler(HTTPException, _http_error)


async def _domain_error(request: Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, errors.PassingError):
        headers["Retry-After"] = str(max(1, math.ceil(error.seconds)))
    if isinstance(error, errors.SourceDown | errors.NoSuchTile):
        headers["Cache-Control"] = "no-store"  # the next moment it may be otherwise
    if isinstance(error, errors.UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"  # RFC 9110, section 15.5.16
    if isinstance(error, errors.KeyMissing):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, section 11.6.1, asks for it
    return problem_response(request, problem_of(error, request.state.request_id), headers)


async def _invalid_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = []
    for item in error.errors():
        name = ".".join(part for part in item["loc"][1:] if isinstance(part, str))
        if item["type"] == "extra_forbidden" and name in InferenceOptions.model_fields:
            details.append(
                f"{name} is fixed when a job is created, as it decides probabilities: create "
                "another job"
            )
        elif item["type"] == "extra_forbidden":
            details.append(f"{errors.brief(name)} is not a parameter of {request.url.path}")
        else:
            details.append(errors.refusal(name, item))
            if name == "format" and item["input"] in get_args(FormatName):
                details[-1] += ", which the results of a job have"
    detail = "; ".join(details)[:1000] + ". /docs lists every parameter and its values."
    problem = _problem(422, "Invalid option", detail, request.state.request_id)
    return problem_response(request, problem)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, headers = request.url.path, dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404:
        if _has_a_slash_too_many(request):  # relative, as a proxy may have put the service anywhere
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"../{path.split('/')[-2]}{query}")
        detail = f"There is no {path!r} here. /docs lists what there is."
    if error.status_code == 405:
        allowed = headers["Allow"] = _methods(request) or headers.get("Allow", "")
        detail = f"{path} takes {allowed}, not {request.method}. /docs lists what there is."
    if error.status_code == 405 and "access-control-request-method" in request.headers:
        detail = (
            f"A page of {errors.brief(request.headers.get('origin'))} asks whether it may use this "
            "service. It may not, unless its operator names the page's origin in the setting "
            "ROOFTRACE_CORS_ORIGINS."
        )
    title = HTTPStatus(error.status_code).phrase.capitalize()  # as the other titles
    problem = _problem(error.status_code, title, detail, request.state.request_id)
    return problem_response(request, problem, headers)


def _methods(request: Request) -> str:
    """Return the methods of a path. The framework's own 405 names those of one route alone."""
    routes = [route for route in request.app.router.routes if not isinstance(route, Mount)]

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    return ", ".join(filter(takes, METHODS))


def _has_a_slash_too_many(request: Request) -> bool:
    path = request.scope["path"]
    scope = {**request.scope, "path": path[:-1]}
    routes = request.app.router.routes
    return path.endswith("/") and any(route.matches(scope)[0] is not Match.NONE for route in routes)


class Unforeseen:
    """Turn an exception that nothing else has caught into a problem.

    Starlette's own handler is outside of every middleware, so its answer would have neither the
    request's id nor the headers of CORS. An answer that has begun can only be broken off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            if scope["type"] != "http" or begun:
                raise
            request = Request(scope)
            problem = problem_of(error, request.state.request_id)
            await problem_response(request, problem)(scope, receive, send)


def responses(*kinds: type[errors.RooftraceError]) -> dict[int | str, dict[str, object]]:
    """Document the errors of an endpoint for OpenAPI, with an example for each."""
    documented: dict[int | str, dict[str, object]] = {}
    for status in sorted({STATUS[kind][0] for kind in kinds}):
        examples = {
            STATUS[kind][1]: {"value": _example(kind).model_dump()}
            for kind in kinds
            if STATUS[kind][0] == status
        }
        schema = {"$ref": "#/components/schemas/Problem"}
        documented[status] = {
            "description": ", or ".join(examples),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
        if status in _RETRIED:
            documented[status]["headers"] = {
                "Retry-After": {
                    "description": "seconds to wait before trying again",
                    "schema": {"type": "integer", "examples": [RETRY_AFTER]},
                }
            }
    return documented


def _example(kind: type[errors.RooftraceError]) -> Problem:
    status, title = STATUS[kind]
    detail = (kind.__doc__ or title).strip()
    return _problem(status, title, detail, EXAMPLE_ID)
