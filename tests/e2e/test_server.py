"""A real `rooftrace serve` over real HTTP."""

import http.client
import json
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import numpy as np
import pytest

from app.outputs.rle import decode_rle
from app.runtime.gpu import GPU_FILES
from tests.e2e.conftest import Serve, Server, command, environment
from tests.e2e.following import wait_until
from tests.e2e.gated import GATED, Gate
from tests.factories import scene
from tests.serving import assert_problem, decoded, encoded, toy_mask

IMAGE = encoded(scene(90, 90))


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


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://roofs.example.org/health/live", 200),
        ("HTTPS://user@[::1]:8000/processes?limit=x", 422),
        ("http://roofs.example.org", 200),
        ("http://roofs.example.org/no%20where", 404),
    ],
)
def test_a_target_may_have_scheme_and_host(server: Server, target: str, status: int) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    with closing(connection):
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == status
        if status == 404:
            assert "There is no '/no where' here" in json.load(answer)["detail"]


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


def test_ndjson_lines_arrive_before_the_last_is_ready(
    serve: Serve, exact: Path, tmp_path: Path
) -> None:
    server, gate = serve(exact, module=GATED), Gate(tmp_path, "requests")
    gate.shut(after=1)
    large, small = encoded(scene(450, 450)), encoded(scene(8, 8))
    files = [("files", ("large.png", large)), ("files", ("small.png", small))]
    url = f"{server.url}/segment/rle?format=ndjson"
    with httpx2.stream("POST", url, files=files, timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["filename"] == "small.png"
        gate.open()
        assert [json.loads(line)["filename"] for line in lines] == ["large.png"]


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
    serve: Serve, exact: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    server, gate = serve(exact, module=GATED, concurrency=1), Gate(tmp_path, "requests")
    gate.shut()
    with ThreadPoolExecutor(3) as clients:
        inside = [
            clients.submit(
                httpx2.post,
                f"{server.url}/segment",
                files={"file": ("a.png", IMAGE)},
                timeout=60,
            )
            for _ in range(3)
        ]
        ready = f"{server.url}/health/ready"
        # One at work, and two behind it.
        wait_until(lambda: gate.is_reached and httpx2.get(ready).json()["waiting"] == 2)
        server.process.send_signal(stop)
        gate.open()
        answers = [request.result() for request in inside]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    np.testing.assert_array_equal(decoded(answers[0].content) == 255, toy_mask(decoded(IMAGE)))
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/health/live")


def test_a_full_queue_sheds_load_and_says_when_to_come_back(
    serve: Serve, exact: Path, tmp_path: Path
) -> None:
    server = serve(exact, module=GATED, concurrency=1, max_waiting=1)
    gate = Gate(tmp_path, "requests")
    gate.shut()

    def post(_: int) -> httpx2.Response:
        files = {"file": ("a.png", IMAGE)}
        return httpx2.post(f"{server.url}/segment", files=files, timeout=60)

    with ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(post, number) for number in range(6)]
        wait_until(lambda: sum(request.done() for request in asked) == 4)
        gate.open()
        answers = [request.result() for request in asked]
    served = [answer for answer in answers if answer.status_code == 200]
    shed = [answer for answer in answers if answer.status_code != 200]
    assert (len(served), len(shed)) == (2, 4)
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
