"""The errors. Every one is a `RooftraceError`.

    RooftraceError
    ├── ConnectionFailed        no answer came, however often it was asked for
    ├── ProblemError            the service answered with a problem (RFC 9457)
    │   ├── InputError          what was sent is at fault: it will fail again
    │   │   └── DamagedImage, InvalidOption, KeyMissing, …
    │   └── ServiceError        the service is at fault, or has no room or time
    │       └── QueueFull, NotReady, DeadlineExceeded, …
    ├── JobCancelled            somebody dismissed the job
    └── FormatError             a result of this format does not have what was asked of it

The service names a problem's kind by the end of its `type`: `urn:rooftrace:damaged-image` is
`DamagedImage`. A kind that has no class here is an `InputError` or a `ServiceError`.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx


class RooftraceError(Exception):
    """Base of every error that this package raises on purpose."""


class ConnectionFailed(RooftraceError):
    """No answer came; `__cause__` is what httpx says of it."""


class JobCancelled(RooftraceError):
    """The job was dismissed, and has no results."""


class FormatError(RooftraceError, TypeError):
    """A result of this format does not have what was asked of it."""


class ProblemError(RooftraceError):
    """The service answered with a problem.

    `detail` says what was wrong and what would be right. `retry_after` is the number of seconds
    that the service asks to wait, None if it does not. `request_id` finds it in the service's log.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        type: str = "about:blank",
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.type = type
        self.request_id = request_id
        self.retry_after = retry_after


class InputError(ProblemError):
    """The request is at fault (4xx)."""


class ServiceError(ProblemError):
    """The service is at fault, or has no room or time (5xx)."""


class MalformedUpload(InputError):
    """400: the body does not hold a file."""


class EmptyUpload(InputError):
    """400: the file has no bytes."""


class KeyMissing(InputError):
    """401: the operator asks for a key. Send one with `Client(api_key=…)`."""


class KeyRefused(InputError):
    """403: the key is not valid."""


class NotFound(InputError):
    """404: there is nothing at this address."""


class NoSuchJob(NotFound):
    """404: no job of this key has this id."""


class ResultNotReady(NotFound):
    """404: the job has not ended."""


class UploadTimeout(InputError):
    """408: the body did not arrive in time."""


class UploadTooLarge(InputError):
    """413: too many bytes or pixels."""


class UnsupportedFormat(InputError):
    """415: not an image format that the service reads."""


class DamagedImage(InputError):
    """422: truncated, corrupt or without pixels."""


class UnsupportedImage(InputError):
    """422: bands or samples that can't be read as RGB."""


class InvalidOption(InputError):
    """422: an option out of range, or one that the service does not have."""


class ImpossibleOutput(InputError):
    """422: a format that this image can't have, such as a map of no place."""


class RateExceeded(InputError):
    """429: this client sends more than the operator allows."""


class QueueFull(ServiceError):
    """503: the queue of the service is full."""


class NotReady(ServiceError):
    """503: the service is starting or stopping."""


class StorageFull(ServiceError):
    """507: the service has no room to keep the job."""


class DeadlineExceeded(ServiceError):
    """504: the request took longer than the service allows. Send it as a job."""


def problem_of(response: httpx.Response) -> ProblemError:
    """Return the error that an unsuccessful response stands for."""
    body = _problem_in(response)
    status = response.status_code
    title = str(body.get("title") or response.reason_phrase or "Unknown status")
    kind = str(body.get("type") or "about:blank")
    if detail := body.get("detail"):
        detail = str(detail)
    elif response.has_redirect_location:
        detail = f"{response.url} leads to {response.headers['Location']}. Use that address."
    else:
        detail = f"{response.url} answered without a reason: {response.text[:200]!r}"
    return _class_of(kind, status)(
        status,
        title,
        detail,
        type=kind,
        request_id=response.headers.get("X-Request-Id"),
        retry_after=retry_after(response),
    )


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a response asks to wait, None if it does not.

    Source: RFC 9110, section 10.2.3: a number of seconds or a date. A date is counted from that of
    the response, as the clock of this machine may be wrong.
    """
    text = response.headers.get("Retry-After")
    if text is None:
        return None
    if text.isdecimal():
        return float(text)
    moment = _moment(text)
    if moment is None:
        return None
    sent = _moment(response.headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (moment - sent).total_seconds())


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _problem_in(response: httpx.Response) -> dict[str, object]:
    """Return the members of a problem, none where the answer is another's, such as a proxy's."""
    if "json" not in response.headers.get("Content-Type", ""):
        return {}
    try:
        body = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _class_of(kind: str, status: int) -> type[ProblemError]:
    slug = re.split(r"[:/]", kind)[-1]
    family = InputError if 400 <= status < 500 else ServiceError
    if status < 400:  # a redirect
        return ProblemError
    return next((c for c in _below(family) if _slug(c) == slug), family)


def _below(family: type[ProblemError]) -> Iterator[type[ProblemError]]:
    for child in family.__subclasses__():
        yield child
        yield from _below(child)


def _slug(kind: type[ProblemError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
