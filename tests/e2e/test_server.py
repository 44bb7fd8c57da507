"""A real `rooftrace serve` over real HTTP."""

import json
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from app.outputs.rle import decode_rle
from app.runtime.gpu import GPU_FILES
from tests.e2e.conftest import Serve, Server, command, environment
from tests.factories import scene
from tests.serving import assert_problem, decoded, encoded, toy_mask

# With SLOW_IMAGE, a second of work for the toy.
SLOW: dict[str, str | float] = {"overlap": 0.75, "tta": "d4"}
SLOW_IMAGE = encoded(scene(450, 450))


def test_it_segments(server: Server) -> None:
    pixels = scene(300, 260)
    response = httpx2.post(f"{server.url}/segment", files={"file": ("a.png", encoded(pixels))})
    assert response.status_code == 200
    np.testing.assert_array_equal(decoded(response.content) == 255, toy_mask(pixels))


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/health/ready", "/nowhere"])
def test_head_on_a_connection_that_goes_on(server: Server, path: str) -> None:
    with httpx2.Client(base_url=server.url) as client:
        for _ in range(2):  # what was left of an answer would be taken for the next
            head, whole = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (whole.status_code, b"")
            assert head.headers["content-length"] == str(len(whole.content))


def test_many_at_once_get_each_their_own(server: Server) -> None:
    scenes = [scene(100 + 7 * i, 90 + 11 * i, seed=i) for i in range(12)]

    def mask_of(i: int) -> np.ndarray:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            if i % 3 == 0:
                files = [("files", ("a.png", encoded(scenes[i])))]
                [result] = client.post("/segment/rle", files=files).json()["results"]
                height, width, _ = scenes[i].shape
                return decode_rle(result["rle"], height, width, "row")
            headers = {"Content-Type": "image/png"}
            response = client.post("/segment", content=encoded(scenes[i]), headers=headers)
            return decoded(response.content) == 255

    with ThreadPoolExecutor(6) as clients:
        masks = list(clients.map(mask_of, range(12)))
    for mask, pixels in zip(masks, scenes, strict=True):
        np.testing.assert_array_equal(mask, toy_mask(pixels))


def test_ndjson_lines_arrive_before_the_last_is_ready(server: Server) -> None:
    files = [("files", ("slow.png", SLOW_IMAGE)), ("files", ("fast.png", encoded(scene(8, 8))))]
    params: dict[str, str | float] = {"format": "ndjson", **SLOW}
    url = f"{server.url}/segment/rle"
    with httpx2.stream("POST", url, files=files, params=params, timeout=60) as response:
        arrived = [
            (json.loads(line)["filename"], time.monotonic()) for line in response.iter_lines()
        ]
    assert [name for name, _ in arrived] == ["fast.png", "slow.png"]
    assert arrived[1][1] - arrived[0][1] > 0.1


def test_too_much_is_refused_before_it_is_sent(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "length", [b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2"]
)
def test_lengths_that_make_no_sense(server: Server, length: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            + length
            + b"\r\n\r\nx"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert httpx2.get(f"{server.url}/health/ready").status_code == 200


def test_a_page_can_read_that_its_request_was_not_http(serve: Serve, exact: Path) -> None:
    server = serve(exact, cors_origins="https://map.example.org")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://map.example.org\r\n")
        connection.sendall(b"no header\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer


def test_a_client_that_leaves_is_no_error(serve: Serve, exact: Path) -> None:
    server = serve(exact)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000\r\n\r\nsome"
        )
        time.sleep(0.2)
    assert server.stop() == 0
    log = server.log.read_text()
    assert "POST /segment 499" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_answered_before_it_ends(
    serve: Serve, exact: Path, stop: signal.Signals
) -> None:
    server = serve(exact, concurrency=1)
    with ThreadPoolExecutor(3) as clients:
        inside = [
            clients.submit(
                httpx2.post,
                f"{server.url}/segment",
                params=SLOW,
                files={"file": ("a.png", SLOW_IMAGE)},
                timeout=60,
            )
            for _ in range(3)
        ]
        ready = f"{server.url}/health/ready"
        while httpx2.get(ready).json()["waiting"] < 2:  # one at work, and two behind it
            assert not all(request.done() for request in inside), "too fast to be in flight"
        server.process.send_signal(stop)
        answers = [request.result() for request in inside]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    np.testing.assert_array_equal(decoded(answers[0].content) == 255, toy_mask(decoded(SLOW_IMAGE)))
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health/live")


def test_a_full_queue_sheds_load_and_says_when_to_come_back(serve: Serve, exact: Path) -> None:
    server = serve(exact, concurrency=1, max_waiting=1, workers=1)

    def post(_: int) -> httpx2.Response:
        files = {"file": ("a.png", SLOW_IMAGE)}
        return httpx2.post(f"{server.url}/segment", params=SLOW, files=files, timeout=60)

    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(post, range(6)))
    served = [answer for answer in answers if answer.status_code == 200]
    shed = [answer for answer in answers if answer.status_code != 200]
    assert len(served) >= 2
    assert shed
    for answer in shed:
        assert_problem(answer, 503, "Queue full")
        assert int(answer.headers["retry-after"]) > 0
    assert httpx2.get(f"{server.url}/health/ready").status_code == 200


@pytest.mark.skipif(any(map(Path.exists, GPU_FILES)), reason="this machine has a GPU")
def test_cuda_that_is_not_there_is_one_sentence(exact: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command("serve", "--port", "0"),
        cwd=tmp_path,
        env=environment(exact, device="cuda"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "CUDA" in done.stderr
    assert done.stderr.count("\n") == 1
