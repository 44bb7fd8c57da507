"""Bursts: whoever is let in is served, whoever is not is told when to come back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.e2e.conftest import Serve
from tests.factories import scene
from tests.hostile.burst import BUDGET, LIMITS, ROOM, measure, post
from tests.hostile.wire import metric
from tests.serving import decoded, encoded, toy_mask

SLACK = 100 * 2**20
"""Bytes that are nobody's request: what 500 connections, their buffers and the allocator hold."""


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
    assert statuses["200"] >= ROOM
    assert found["wrong"] == 0
    assert isinstance(found["grown MiB"], float)
    assert found["grown MiB"] < (BUDGET + SLACK) / 2**20
    assert metric(server, "rooftrace_reserved_bytes") == 0
    assert metric(server, 'rooftrace_problems_total{problem="Queue full"}') == statuses["503"]


def test_clients_that_come_back_when_told_all_finish(serve: Serve, exact: object) -> None:
    server = serve(exact, concurrency=1, max_waiting=2, workers=1)
    pixels = scene(400, 400)
    image, expected, told = encoded(pixels), toy_mask(pixels), threading.Event()

    def persist(_: int) -> bool:
        while True:
            status, body, retry_after = post(server.url, image)
            if status == 200:
                return np.array_equal(decoded(body) == 255, expected)
            assert (status, retry_after) == (503, "2")
            told.set()
            time.sleep(2)

    with ThreadPoolExecutor(12) as clients:
        assert all(clients.map(persist, range(12)))
    assert told.is_set(), "the queue was never full"
