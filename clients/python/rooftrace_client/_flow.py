"""What to send and when to wait, without sending or waiting: the logic that both clients share.

A flow is a generator. It yields steps, and gets the result of each step sent back or thrown in.
`run` performs the steps of a flow for `Client`, `run_async` for `AsyncClient`. httpx does its
authentication in the same way.
"""

import asyncio
import io
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import httpx

from ._errors import ConnectionFailed, problem_of

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request; the result is its `httpx.Response`, read to its end.

    `repeatable`: nothing is lost if the service gets it twice.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    file: tuple[str, bytes] | None = field(default=None, repr=False)
    repeatable: bool = True

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of httpx's `request`."""
        files = None
        if self.file is not None:
            name, data = self.file
            files = {"file": (name, io.BytesIO(data))}  # which httpx reads in small pieces
        params = {name: _text(value) for name, value in self.params.items() if value is not None}
        return {
            "method": self.method,
            "url": self.path,
            "params": params or None,
            "headers": dict(self.headers),
            "files": files,
        }


@dataclass(frozen=True)
class Sleep:
    """Wait; the result is None."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """Call a function that may block, such as one that reads a file; the result is its own."""

    function: Callable[[], Any]


Step: TypeAlias = Send | Sleep | Call
Flow: TypeAlias = Generator[Step, Any, T]


def run(flow: Flow[T], http: httpx.Client, sleep: Callable[[float], object] = time.sleep) -> T:
    """Perform the steps of a flow, and return its value."""

    def perform(step: Step) -> object:
        match step:
            case Send():
                return _let_go(http.request(**step.arguments()))
            case Sleep():
                sleep(step.seconds)
                return None
            case Call():
                return step.function()

    try:
        step = next(flow)
        while True:
            try:
                result = perform(step)
            except Exception as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


async def run_async(flow: Flow[T], http: httpx.AsyncClient) -> T:
    """Perform the steps of a flow without blocking the event loop, and return its value."""

    async def perform(step: Step) -> object:
        match step:
            case Send():
                return _let_go(await http.request(**step.arguments()))
            case Sleep():
                await asyncio.sleep(step.seconds)
                return None
            case Call():
                return await asyncio.to_thread(step.function)

    try:
        step = next(flow)
        while True:
            try:
                result = await perform(step)
            except Exception as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


def _let_go(response: httpx.Response) -> httpx.Response:
    """Cut the circle of response and stream, so that both go at once when nobody needs them.

    Else they wait, with the file that was sent, for Python's garbage collector, which came when 16
    files of a batch were in memory.
    """
    response.stream = httpx.ByteStream(b"")  # all of it has been read
    return response


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again, and after how long.

    The pause doubles from `first_pause` seconds on, with jitter, so that many clients don't come
    back at once. Where the service asks for a longer one (`Retry-After`), that counts. A service
    that asks for more than `longest_pause` seconds is not waited for.
    """

    count: int
    first_pause: float = 0.5
    longest_pause: float = 120.0

    def pause(self, attempt: int, asked: float | None) -> float | None:
        """Return the seconds to wait after the attempt of this number, None to give up."""
        if attempt >= self.count or (asked or 0) > self.longest_pause:
            return None
        backoff = min(self.first_pause * 2.0**attempt, self.longest_pause)
        return max(asked or 0.0, backoff) * random.uniform(1, 1.25)


_BUSY = {429, 502, 503}
_NOT_ACCEPTED = {429, 503}
"""Statuses of a request that the service did not begin with; 502 is a proxy's."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)
_BROKEN = (*_NOT_SENT, httpx.NetworkError, httpx.RemoteProtocolError)


def exchange(send: Send, retries: Retries) -> Flow[httpx.Response]:
    """Send a request, again where that may help, and return its response.

    Raises:
        ConnectionFailed: no answer came.
        ProblemError: the answer is a problem.
    """
    broken = _BROKEN if send.repeatable else _NOT_SENT
    busy = _BUSY if send.repeatable else _NOT_ACCEPTED
    attempt = 0
    while True:
        try:
            response: httpx.Response = yield send
        except httpx.RequestError as failure:
            pause = retries.pause(attempt, None) if isinstance(failure, broken) else None
            if pause is None:
                raise ConnectionFailed(_what_failed(failure, attempt)) from failure
        else:
            if response.is_success:
                return response
            problem = problem_of(response)
            busy_now = response.status_code in busy
            pause = retries.pause(attempt, problem.retry_after) if busy_now else None
            if pause is None:
                raise problem
        attempt += 1
        yield Sleep(pause)


def _what_failed(failure: httpx.RequestError, attempt: int) -> str:
    tries = "" if attempt == 0 else f", asked {attempt + 1} times"
    return f"{failure.request.url}{tries}: {str(failure) or type(failure).__name__}"


def _text(value: object) -> str:
    """Write an option as the service reads it: `(3, 2, 1)` is `3,2,1`."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
