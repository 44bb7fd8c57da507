"""The two clients: what `Client` does in its thread, `AsyncClient` does in an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from . import _batch, _jobs
from ._flow import Call, Flow, Retries, Send, exchange, run, run_async
from ._images import Image, read_image
from ._jobs import JobStatus, Progress
from ._options import Format, JobFormat, Options, ResultOptions
from ._results import Result
from ._version import __version__

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = httpx.Timeout(150.0, connect=10.0)
"""Seconds: longer than the service's own deadline, so that its answer says what happened."""
DEFAULT_RETRIES = 6


def _segment(
    image: Image, format: str, options: Mapping[str, Any], retries: Retries
) -> Flow[Result]:
    file = yield Call(lambda: read_image(image))
    send = Send("POST", "segment", {"format": format, **options}, file=file)
    response = yield from exchange(send, retries)
    return Result.of(response, format)


def _models(retries: Retries) -> Flow[dict[str, Any]]:
    response = yield from exchange(Send("GET", "models"), retries)
    models: dict[str, Any] = response.json()
    return models


def _settings(base_url: str, api_key: str | None, timeout: httpx.Timeout | float) -> dict[str, Any]:
    """Return the arguments that both of httpx's clients take."""
    headers = {"User-Agent": f"rooftrace-client/{__version__}"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": base_url,
        "headers": headers,
        "timeout": timeout,
        # A batch bounds its requests by itself.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
    }


class Client:
    """A client of one Rooftrace service. It may be used by several threads at once.

    ```python
    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment("tile.png").mask()
    ```

    `base_url` may have a path, for a service behind a proxy. `timeout` is in seconds, or an
    `httpx.Timeout`. `retries` is how often a request is sent again after a broken connection, a
    429, a 502 or a 503. `transport` is one of httpx's, for proxies and certificates of your own.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(**_settings(base_url, api_key, timeout), transport=transport)
        self._retries = Retries(retries)

    def segment(
        self, image: Image, *, format: Format = "png", **options: Unpack[Options]
    ) -> Result:
        """Segment one image: a path, bytes, or a file that is open in binary mode.

        Raises:
            ConnectionFailed: no answer came, after all retries.
            ProblemError: the service answered with a problem.
            OSError: the file can't be read.
        """
        return run(_segment(image, format, options, self._retries), self._http)

    def segment_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = 4,
        format: Format = "png",
        **options: Unpack[Options],
    ) -> Iterator[_batch.Outcome]:
        """Segment any number of images, `concurrency` at a time, and yield outcomes as they come.

        What is wrong with a file is the `result` of its outcome, and ends nothing. Memory holds at
        most `concurrency` images and results.
        """

        def one(image: Image, sleep: Callable[[float], object]) -> Result:
            return run(_segment(image, format, options, self._retries), self._http, sleep)

        return _batch.segmented(one, images, concurrency)

    def submit(self, image: Image, **options: Unpack[Options]) -> Job:
        """Send an image as a job, for work that takes long. Its results are kept for a while.

        Raises:
            As `segment`.
        """
        return Job(self, self._run(_jobs.submit(image, options, self._retries)).id)

    def job(self, id: str) -> Job:
        """Return the job of an id, without asking whether there is one."""
        return Job(self, id)

    def jobs(self, limit: int = 100) -> list[JobStatus]:
        """Return the status of this API key's jobs, the newest first."""
        return self._run(_jobs.listed(limit, self._retries))

    def models(self) -> dict[str, Any]:
        """Return what the service says of its models."""
        return self._run(_models(self._retries))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._http.base_url)!r})"

    def _run(self, flow: Flow[T]) -> T:
        return run(flow, self._http)


class Job:
    """A job of a service, as `Client.submit` and `Client.job` return it."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def status(self) -> JobStatus:
        """Ask how far it is."""
        return self._client._run(_jobs.status(self.id, self._client._retries))

    def wait(self, progress: Progress = False) -> JobStatus:
        """Wait until it has ended well.

        Raises:
            ProblemError: it failed; this is the problem that it ended with.
            JobCancelled: it was dismissed.
        """
        return self._client._run(_jobs.wait(self.id, progress, self._client._retries))

    def result(self, format: JobFormat = "png", **options: Unpack[ResultOptions]) -> Result:
        """Return a result, which takes no new inference.

        Options that are left out are those that the job was sent with.

        Raises:
            ResultNotReady: it has not ended. `wait` first.
        """
        return self._client._run(_jobs.result(self.id, format, options, self._client._retries))

    def preview(self) -> bytes:
        """Return a preview of the image: a PNG of at most 2048 pixels a side."""
        return self._client._run(_jobs.preview(self.id, self._client._retries))

    def cancel(self) -> JobStatus:
        """Dismiss it, and with it its results."""
        return self._client._run(_jobs.cancel(self.id, self._client._retries))

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited.

    ```python
    async with AsyncClient("http://127.0.0.1:8000") as client:
        result = await client.segment("tile.png")
    ```
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings = _settings(base_url, api_key, timeout)
        self._http = httpx.AsyncClient(**settings, transport=transport)
        self._retries = Retries(retries)

    async def segment(
        self, image: Image, *, format: Format = "png", **options: Unpack[Options]
    ) -> Result:
        """Do as `Client.segment`."""
        return await self._run(_segment(image, format, options, self._retries))

    def segment_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = 4,
        format: Format = "png",
        **options: Unpack[Options],
    ) -> AsyncIterator[_batch.Outcome]:
        """Do as `Client.segment_many`, for `async for`."""

        async def one(image: Image) -> Result:
            return await self.segment(image, format=format, **options)

        return _batch.segmented_async(one, images, concurrency)

    async def submit(self, image: Image, **options: Unpack[Options]) -> AsyncJob:
        """Do as `Client.submit`."""
        status = await self._run(_jobs.submit(image, options, self._retries))
        return AsyncJob(self, status.id)

    def job(self, id: str) -> AsyncJob:
        """Return the job of an id, without asking whether there is one."""
        return AsyncJob(self, id)

    async def jobs(self, limit: int = 100) -> list[JobStatus]:
        """Do as `Client.jobs`."""
        return await self._run(_jobs.listed(limit, self._retries))

    async def models(self) -> dict[str, Any]:
        """Do as `Client.models`."""
        return await self._run(_models(self._retries))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._http.base_url)!r})"

    async def _run(self, flow: Flow[T]) -> T:
        return await run_async(flow, self._http)


class AsyncJob:
    """`Job` for asyncio: the same methods, to be awaited."""

    def __init__(self, client: AsyncClient, id: str) -> None:
        self._client = client
        self.id = id

    async def status(self) -> JobStatus:
        """Do as `Job.status`."""
        return await self._client._run(_jobs.status(self.id, self._client._retries))

    async def wait(self, progress: Progress = False) -> JobStatus:
        """Do as `Job.wait`."""
        return await self._client._run(_jobs.wait(self.id, progress, self._client._retries))

    async def result(self, format: JobFormat = "png", **options: Unpack[ResultOptions]) -> Result:
        """Do as `Job.result`."""
        flow = _jobs.result(self.id, format, options, self._client._retries)
        return await self._client._run(flow)

    async def preview(self) -> bytes:
        """Do as `Job.preview`."""
        return await self._client._run(_jobs.preview(self.id, self._client._retries))

    async def cancel(self) -> JobStatus:
        """Do as `Job.cancel`."""
        return await self._client._run(_jobs.cancel(self.id, self._client._retries))

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r})"
