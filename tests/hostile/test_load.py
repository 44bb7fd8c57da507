"""Bursts: whoever is let in is served, whoever is not is told when to come back."""

import http.client
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.e2e.conftest import Serve, Server
from tests.factories import scene
from tests.hostile.wire import metric, peak, resident
from tests.serving import decoded, encoded, toy_mask

BUDGET = 400 * 2**20
LIMITS = {
    "memory_budget": BUDGET,
    "max_pixels": 2_000_000,
    "max_upload_bytes": 8 * 2**20,
    "concurrency": 2,
    "lanes": 1,
}
SLACK = 100 * 2**20
"""Bytes that are nobody's request: what 500 connections, their buffers and the allocator hold."""


@dataclass
class Tally:
    """How requests ended."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    health: list[float] = field(default_factory=list)


def _post(server: Server, image: bytes) -> tuple[int, bytes, str | None]:
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    try:
        headers = {"Content-Type": "image/png"}
        connection.request("POST", "/segment?overlap=0", body=image, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Retry-After"]
    finally:
        connection.close()


def burst(server: Server, images: list[bytes], masks: list[np.ndarray], number: int) -> Tally:
    """Send `number` uploads at once, and ask for the health meanwhile."""
    tally, begun, done = Tally(), threading.Barrier(number + 1), threading.Event()

    def one(i: int) -> None:
        begun.wait()
        try:
            status, body, retry_after = _post(server, images[i % len(images)])
        except OSError as error:
            tally.statuses[type(error).__name__] += 1
            return
        tally.statuses[str(status) if status != 503 or retry_after else "503 without end"] += 1
        if status == 200:
            same = np.array_equal(decoded(body) == 255, masks[i % len(masks)])
            tally.wrong += not same

    def ask() -> None:
        host, port = server.url.removeprefix("http://").split(":")
        while not done.is_set():
            started = time.perf_counter()
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", "/health/live")
            assert connection.getresponse().status == 200
            connection.close()
            tally.health.append(time.perf_counter() - started)
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    with ThreadPoolExecutor(number) as clients:
        sent = [clients.submit(one, i) for i in range(number)]
        begun.wait()
        for each in sent:
            each.result()
    done.set()
    asking.join()
    return tally


def measure(server: Server, number: int, side: int) -> dict[str, object]:
    """Send a burst of images of side², three bytes a pixel, and report what it cost."""
    pixels = [scene(side, side, seed=seed) for seed in range(3)]
    images, masks = [encoded(p, compress_level=0) for p in pixels], [toy_mask(p) for p in pixels]
    for image in images:
        assert _post(server, image)[0] == 200
    before, started = resident(server), time.perf_counter()
    tally = burst(server, images, masks, number)
    return {
        "statuses": dict(tally.statuses),
        "wrong": tally.wrong,
        "seconds": time.perf_counter() - started,
        "grown": peak(server) - before,
        "health p50": statistics.median(tally.health),
        "health p99": sorted(tally.health)[int(0.99 * (len(tally.health) - 1))],
        "lag": metric(server, 'rooftrace_event_loop_lag_seconds_bucket{le="0.1"}'),
        "lag all": metric(server, "rooftrace_event_loop_lag_seconds_count"),
    }


@pytest.mark.parametrize(
    ("number", "side"), [(60, 400), pytest.param(500, 1003, marks=pytest.mark.slow)]
)
def test_a_burst(serve: Serve, exact: object, number: int, side: int) -> None:
    server = serve(exact, **LIMITS)
    found = measure(server, number, side)
    print(found)
    statuses = found["statuses"]
    assert isinstance(statuses, dict)
    assert set(statuses) == {"200", "503"}, "somebody got neither"
    assert statuses["200"] >= 34  # all that there is room for
    assert found["wrong"] == 0
    assert isinstance(found["grown"], int)
    assert found["grown"] < BUDGET + SLACK
    assert metric(server, "rooftrace_reserved_bytes") == 0
    assert metric(server, 'rooftrace_problems_total{problem="Queue full"}') == statuses["503"]


def test_clients_that_come_back_when_told_all_finish(serve: Serve, exact: object) -> None:
    server = serve(exact, concurrency=1, max_waiting=2, lanes=1)
    pixels = scene(400, 400)
    image, expected, told = encoded(pixels), toy_mask(pixels), threading.Event()

    def persist(_: int) -> bool:
        while True:
            status, body, retry_after = _post(server, image)
            if status == 200:
                return np.array_equal(decoded(body) == 255, expected)
            assert (status, retry_after) == (503, "2")
            told.set()
            time.sleep(float(retry_after))

    with ThreadPoolExecutor(12) as clients:
        assert all(clients.map(persist, range(12)))
    assert told.is_set(), "the queue was never full"
