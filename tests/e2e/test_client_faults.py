"""The Python client when connections break and the service has no room."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import numpy as np
import pytest

import rooftrace_client
from rooftrace_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InputError,
    ProblemError,
    Result,
    ServiceError,
)
from rooftrace_client._errors import problem_of, retry_after
from rooftrace_client._flow import Retries
from tests.e2e.conftest import Serve, Server, free_port, running_server
from tests.e2e.cutting import cutting_proxy
from tests.factories import scene
from tests.serving import encoded, toy_mask

PIXELS = scene(120, 90)
PNG = encoded(PIXELS)

Segment = Callable[..., Result]


def segment(url: str, **settings: Any) -> Result:
    with Client(url, **settings) as client:
        return client.segment(PNG)


def segment_async(url: str, **settings: Any) -> Result:
    async def one() -> Result:
        async with AsyncClient(url, **settings) as client:
            return await client.segment(PNG)

    return asyncio.run(one())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, exact: Path) -> Iterator[Server]:
    """A server that has room for one request."""
    settings: dict[str, Any] = {"concurrency": 1, "max_waiting": 0, "backend": "onnxruntime"}
    with running_server(tmp_path_factory.mktemp("small"), exact, **settings) as server:
        yield server


BOTH = pytest.mark.parametrize("segment", [segment, segment_async])


class TestConnections:
    @BOTH
    @pytest.mark.parametrize("after", [0, 60])  # bytes of the answer that still come
    def test_a_killed_connection_is_made_anew(
        self, server: Server, segment: Segment, after: int
    ) -> None:
        with cutting_proxy(server.url, breaks=2, after=after) as proxy:
            result = segment(proxy.url)
        np.testing.assert_array_equal(result.mask(), toy_mask(PIXELS))
        assert (proxy.broken, proxy.passed) == (2, 1)

    @BOTH
    def test_what_breaks_each_time_is_told(self, server: Server, segment: Segment) -> None:
        with (
            cutting_proxy(server.url, breaks=99, after=0) as proxy,
            pytest.raises(ConnectionFailed, match=r"/segment\?format=png, asked 2 times: "),
        ):
            segment(proxy.url, retries=1)
        assert proxy.broken == 2

    def test_nobody_listens(self) -> None:
        with pytest.raises(ConnectionFailed) as caught:
            segment(f"http://127.0.0.1:{free_port()}", retries=0)
        assert isinstance(caught.value.__cause__, httpx.ConnectError)

    def test_a_timeout_is_not_tried_again(self, server: Server) -> None:
        with pytest.raises(ConnectionFailed) as caught:
            segment(server.url, timeout=httpx.Timeout(30, read=1e-4))
        assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
        assert "asked" not in str(caught.value)


class TestNoRoom:
    @BOTH
    def test_a_full_queue_is_waited_for(self, small: Server, segment: Segment) -> None:
        refused = small.log.read_text().count("POST /segment 503")
        with uploading_slowly(small):
            begun = time.monotonic()
            result = segment(small.url)
        np.testing.assert_array_equal(result.mask(), toy_mask(PIXELS))
        assert time.monotonic() - begun >= 2, "Retry-After is 2 seconds"
        assert small.log.read_text().count("POST /segment 503") > refused

    def test_a_full_queue_is_told_where_waiting_is_not_wanted(self, small: Server) -> None:
        with uploading_slowly(small), pytest.raises(rooftrace_client.QueueFull) as caught:
            segment(small.url, retries=0)
        assert (caught.value.status, caught.value.retry_after) == (503, 2)

    def test_a_rate_is_kept_to(self, serve: Serve, exact: Path) -> None:
        server = serve(exact, rate_limit=60, backend="onnxruntime")
        with Client(server.url) as client:
            for _ in range(80):  # of which 60 may come at once
                client.models()
                if "GET /models 429" in server.log.read_text():
                    break
            else:
                pytest.fail("the client was never too fast")


class TestPauses:
    def test_they_grow_up_to_a_limit(self) -> None:
        retries = Retries(4, first_pause=1, longest_pause=3)
        pauses = [retries.pause(attempt, None) for attempt in range(5)]
        for pause, least in zip(pauses[:4], (1, 2, 3, 3), strict=True):
            assert pause is not None
            assert least <= pause <= 1.25 * least
        assert pauses[4] is None

    def test_what_the_service_asks_for_is_kept_to(self) -> None:
        retries = Retries(4)
        assert 30 <= (retries.pause(0, 30) or 0) <= 37.5
        assert retries.pause(0, 3600) is None, "nobody wants to wait for an hour"

    @pytest.mark.parametrize(("seconds", "low"), [(90, 60), (-90, 0)])
    def test_a_date(self, seconds: float, low: float) -> None:
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        pause = retry_after(httpx.Response(503, headers={"Retry-After": moment}))
        assert pause is not None
        assert low <= pause <= max(0, seconds)

    @pytest.mark.parametrize("hours", [-24, 1])
    def test_a_date_of_another_clock(self, hours: int) -> None:
        sent = datetime.now(UTC) + timedelta(hours=hours)
        dates = sent, sent + timedelta(seconds=90)
        date, again = (format_datetime(moment, usegmt=True) for moment in dates)
        assert retry_after(httpx.Response(503, headers={"Date": date, "Retry-After": again})) == 90

    def test_a_number_nothing_and_nonsense(self) -> None:
        assert retry_after(httpx.Response(503, headers={"Retry-After": "soon"})) is None
        assert retry_after(httpx.Response(503)) is None
        assert retry_after(httpx.Response(503, headers={"Retry-After": "7"})) == 7


class TestOthersAnswers:
    """Those of proxies, of which none is a problem as the service writes it."""

    @pytest.mark.parametrize(
        ("response", "kind", "words"),
        [
            (httpx.Response(502, html="<h1>Bad Gateway</h1>"), ServiceError, "Bad Gateway"),
            (httpx.Response(413, text="too large"), InputError, "413 Request Entity Too Large"),
            (httpx.Response(500, json=["odd"]), ServiceError, "odd"),
            (
                httpx.Response(500, content=b"{", headers={"Content-Type": "application/json"}),
                ServiceError,
                "500 Internal Server Error",
            ),
            (
                httpx.Response(301, headers={"Location": "https://roofs.example.org/"}),
                ProblemError,
                "leads to https://roofs.example.org/",
            ),
        ],
    )
    def test_they_are_told(self, response: httpx.Response, kind: type, words: str) -> None:
        response.request = httpx.Request("POST", "http://proxy/segment")
        problem = problem_of(response)
        assert type(problem) is kind
        assert words in str(problem)


@contextmanager
def uploading_slowly(server: Server) -> Iterator[None]:
    """Take a place by a body that does not come; the service keeps it for two seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000\r\n\r\nsome"
        )
        while httpx2.get(f"{server.url}/health/ready").status_code != 503:
            time.sleep(0.01)
        yield
