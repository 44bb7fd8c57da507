"""Slow clients, leaving clients, signals, and models that are not what they were."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from rasterio.transform import Affine

from app.api.parameters import RESULT_TYPES
from tests.e2e.conftest import (
    Serve,
    Server,
    command,
    environment,
    free_port,
    is_ready,
    running_server,
    wait_until_ready,
)
from tests.e2e.following import wait_until
from tests.e2e.gated import GATED, Gate
from tests.factories import channel_graph, scene, write_toy_bundle
from tests.geotiff import tiff
from tests.hostile.restart import kill_and_wait, supervised
from tests.hostile.wire import POST, closed_after, connect, connections, drained, exchange, metric
from tests.serving import PNG, RAW, decoded, encoded, exact_bundle, toy_mask

IMAGE = encoded(scene(300, 300))
MANY = 200


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, exact: Path) -> Iterator[Server]:
    """A server that does not wait for long."""
    deadlines: dict[str, Any] = {"header_timeout": 3, "receive_timeout": 1, "idle_timeout": 1}
    with running_server(tmp_path_factory.mktemp("hasty"), exact, **deadlines) as server:
        yield server


def post(server: Server, **params: Any) -> httpx2.Response:
    """Send a small image, which takes no time."""
    url = f"{server.url}/segment"
    return httpx2.post(url, content=PNG, headers=RAW, params=params, timeout=60)


class TestSlowClients:
    """Each connection is cut by its deadline, and the others are served meanwhile."""

    def test_hundreds_of_them(self, serve: Serve, exact: Path) -> None:
        server = serve(exact, header_timeout=10, receive_timeout=10)
        kinds = {
            b"": b"",
            b"GET /health/live HTTP/1.1\r\n": b"X: y\r\n",
            POST + b"Content-Length: 1000\r\n\r\n": b"x",
            POST + b"Content-Length: 1001\r\n\r\n": b"",
            POST + b"Transfer-Encoding: chunked\r\n\r\n": b"1\r\nx\r\n",
        }
        drips = {}
        with connections(server, 2 * MANY) as opened:
            for i, connection in enumerate(opened):
                opening, drips[connection] = list(kinds.items())[i % len(kinds)]
                connection.sendall(opening)
            started = time.monotonic()
            while post(server).status_code == 503:  # they have all places for a moment
                assert time.monotonic() - started < 8
                time.sleep(0.1)
            assert time.monotonic() - started > 0.5, "the queue was never full"
            served = [post(server).status_code for _ in range(5)]
            closed = closed_after(drips, 30)
        assert served == [200] * 5
        assert min(closed) > 0, "closed before others were served"
        assert max(closed) < 20
        assert metric(server, "rooftrace_requests_waiting") == 0
        assert metric(server, "rooftrace_reserved_bytes") == 0

    def test_a_late_body_is_told_so(self, hasty: Server) -> None:
        with connect(hasty) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\nx")
            answer = drained(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")

    def test_a_refused_body_that_never_ends(self, hasty: Server) -> None:
        """The answer is there at once; what still comes is read for so long and no longer."""
        with connect(hasty) as connection:
            connection.sendall(POST + b"Content-Length: 9999999999\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
            assert max(closed_after({connection: b"x" * 1000}, 15)) < 10

    def test_refused_bodies_are_read_to_their_ends(self, server: Server) -> None:
        """Connections serve on after that, as they promise."""
        body = b"x" * 3_000_000
        request = POST.replace(b"image/png", b"text/plain") + b"Content-Length: 3000000\r\n\r\n"
        with connections(server, 20) as opened, ThreadPoolExecutor(20) as clients:
            for _ in range(2):
                list(clients.map(lambda connection: connection.sendall(request + body), opened))
                for connection in opened:
                    answer = http.client.HTTPResponse(connection)
                    answer.begin()
                    assert (answer.status, bool(answer.read())) == (415, True)

    def test_a_client_that_closes_still_reads_its_answer(self, server: Server) -> None:
        """Python's urllib always says `Connection: close`, and sends all before it reads."""
        request = urllib.request.Request(
            f"{server.url}/segment", bytes(20_000_000), {"Content-Type": "text/plain"}
        )
        for _ in range(3):
            with pytest.raises(urllib.error.HTTPError) as told:
                urllib.request.urlopen(request, timeout=30)
            assert (told.value.code, bool(told.value.read())) == (415, True)

    def test_stopping_does_not_wait_for_what_was_refused(self, serve: Serve, exact: Path) -> None:
        server = serve(exact)
        with connections(server, 2) as opened:
            for connection, header in zip(opened, (b"", b"Connection: close\r\n"), strict=True):
                connection.sendall(POST + header + b"Content-Length: 9999999999\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=10) == 0

    def test_an_idle_connection(self, hasty: Server) -> None:
        with connect(hasty) as idle, connect(hasty) as second:
            for connection in (idle, second):
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            second.sendall(b"GET /")  # and no more of the second request
            idle_for, second_for = closed_after({idle: b"", second: b""}, 15)
        assert idle_for < second_for < 10
        assert second_for > 2.5

    def test_a_reader_that_does_not_read(self, hasty: Server) -> None:
        image = encoded(scene(1500, 1500))
        request = POST.replace(b"/segment", b"/segment?format=overlay&overlap=0")
        with connect(hasty) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(ConnectionError):
                for _ in range(3):  # more than the system's own buffers hold
                    connection.sendall(request + f"Content-Length: {len(image)}\r\n\r\n".encode())
                    connection.sendall(image)
            give_up = time.monotonic() + 30
            while "its reader took too long" not in hasty.log.read_text():
                assert time.monotonic() < give_up
                time.sleep(0.1)
        assert is_ready(hasty)


class TestBetweenRequests:
    def test_an_empty_line_before_a_request_is_passed_over(self, server: Server) -> None:
        alive = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        with connect(server) as connection:
            for pieces in ([b"\r\n" + alive], [b"\r\n", alive], [b"\r\n", b"\r\n", alive]):
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.1)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize("path", [b"/segment", b"/nowhere"])
    def test_a_request_of_two_lengths_is_the_last(self, server: Server, path: bytes) -> None:
        request = POST.replace(b"/segment", path) + b"Content-Length: 5\r\n"
        with connect(server) as connection:
            connection.sendall(request + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            answer = drained(connection)
        assert re.match(rb"HTTP/1.1 4\d\d ", answer)
        assert b"\r\nconnection: close\r\n" in answer


class TestNotHttp:
    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"hello\r\n\r\n",
            POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            POST + b"Content-Length: 1e3\r\n\r\n",
            POST + b"Transfer-Encoding: gzip\r\n\r\n",
            POST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            POST + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
            POST + b"X\0Y: z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=lambda request: repr(request[-30:]),
    )
    def test_it_is_a_400_like_any_other(self, server: Server, request_bytes: bytes) -> None:
        status, body = exchange(server, request_bytes)
        assert status == 400
        problem = json.loads(body)
        assert problem["type"] == "urn:rooftrace:malformed-request"
        assert is_ready(server)

    def test_whoever_stays_after_nonsense_is_cut(self, server: Server) -> None:
        with connect(server) as connection:
            connection.sendall(b"hello\r\n\r\n")
            assert closed_after({connection: b"x"}, 15)[0] < 10

    def test_nonsense_after_an_answer(self, server: Server) -> None:
        with connect(server) as connection:
            connection.sendall(POST.replace(b"image/png", b"text/plain"))
            connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
            connection.sendall(b"nonsense\r\n")
            drained(connection)
        assert is_ready(server)
        assert "Traceback" not in server.log.read_text()


class TestLeaving:
    def test_a_client_that_leaves_frees_the_workers(self, serve: Serve, exact: Path) -> None:
        server = serve(exact, concurrency=1, workers=1, max_waiting=0)
        image = encoded(scene(1500, 1500))  # a minute of work
        with connect(server) as connection:
            target = b"/segment?overlap=0.75&tta=d4"
            request = POST.replace(b"/segment", target)
            connection.sendall(request + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
            give_up = time.monotonic() + 20
            while is_ready(server):  # it is at work, and there is no room for another
                assert time.monotonic() < give_up
            time.sleep(0.5)
        left = time.monotonic()
        while post(server).status_code == 503:
            assert time.monotonic() - left < 10
            time.sleep(0.05)
        assert "POST /segment 499" in server.log.read_text()
        assert metric(server, "rooftrace_reserved_bytes") == 0


class TestStopping:
    def test_readiness_goes_first_and_what_comes_meanwhile_is_served(
        self, serve: Serve, exact: Path
    ) -> None:
        server = serve(exact, drain_delay=2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        ready = httpx2.get(f"{server.url}/health/ready")
        assert (ready.status_code, ready.json()["title"]) == (503, "Not ready")
        assert int(ready.headers["retry-after"]) > 0
        assert httpx2.get(f"{server.url}/health/live").status_code == 200
        assert post(server).status_code == 200
        assert server.process.wait(timeout=20) == 0

    def test_fifty_in_flight_are_all_answered(
        self, serve: Serve, exact: Path, tmp_path: Path
    ) -> None:
        server = serve(exact, module=GATED, concurrency=2, max_waiting=50, drain_delay=0.2)
        gate = Gate(tmp_path, "requests")
        gate.shut()
        pixels = scene(230, 230)
        image, expected = encoded(pixels), toy_mask(pixels)
        params: dict[str, str | float] = {"overlap": 0.75, "tta": "flips"}
        begun = threading.Barrier(51)

        def one(_: int) -> httpx2.Response:
            begun.wait()
            url = f"{server.url}/segment"
            return httpx2.post(url, content=image, headers=RAW, params=params, timeout=120)

        with ThreadPoolExecutor(50) as clients:
            inside = [clients.submit(one, i) for i in range(50)]
            begun.wait()
            wait_until(lambda: metric(server, "rooftrace_requests_waiting") == 48)
            server.process.send_signal(signal.SIGTERM)
            gate.open()
            answers = [request.result() for request in inside]
        assert [answer.status_code for answer in answers] == [200] * 50
        for answer in answers:
            np.testing.assert_array_equal(decoded(answer.content) == 255, expected)
        assert server.process.wait(timeout=30) == 0

    def test_the_second_signal_ends_it_at_once(self, serve: Serve, exact: Path) -> None:
        server = serve(exact, concurrency=1)
        with connect(server) as connection:
            image = encoded(scene(3000, 3000))  # more work than is waited for, on any machine
            request = POST.replace(b"/segment", b"/segment?overlap=0.75&tta=d4")
            connection.sendall(request + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            assert server.process.poll() is None, "it did not wait for what it had accepted"
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=5) == -signal.SIGTERM
            assert drained(connection) == b"", "half a result"

    def test_killed_it_is_ready_again_under_a_supervisor(self, tmp_path: Path, exact: Path) -> None:
        pixels = scene(50, 60)
        with supervised(tmp_path, exact) as server:
            for _ in range(2):
                found = kill_and_wait(server)
                assert (
                    found["computed"] < 5
                )  # of the seconds that it may take, on a core of its own
                answer = httpx2.post(f"{server.url}/segment", content=encoded(pixels), headers=RAW)
                np.testing.assert_array_equal(decoded(answer.content) == 255, toy_mask(pixels))


# As in the container, with nothing left: the root read-only, and the one folder to write to full.
NOWHERE_TO_WRITE = """
set -e
mount -t tmpfs -o size=16k none "$TMPDIR"
! head -c 1M /dev/zero > "$TMPDIR/full" 2> /dev/null
mount -o remount,bind,ro /
! "$PYTHON" -c "import tempfile; tempfile.TemporaryFile()" 2> /dev/null
exec "$@"
"""
ISOLATED = ("unshare", "--map-root-user", "--mount")


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ISOLATED, "true"]).returncode != 0,
    reason="no file systems can be mounted here",
)
class TestNowhereToWrite:
    """Uploads are never spooled to disk, so that a full one is no reason for a 507."""

    def test_large_uploads_and_all_results_are_served(
        self, serve: Serve, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "full").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
        monkeypatch.setenv("PYTHON", sys.executable)
        server = serve(exact, wrapper=[*ISOLATED, "sh", "-c", NOWHERE_TO_WRITE, "sh"])
        with pytest.raises(OSError, match="No space left"):
            Path(f"/proc/{server.process.pid}/root{tmp_path}/full/more").write_bytes(b"x" * 20000)
        pixels = scene(700, 700)
        large = encoded(pixels, compress_level=0)
        assert len(large) > 2**20, "no more than Starlette's own parser keeps in memory"
        url = f"{server.url}/segment"
        for given in ({"files": {"file": large}}, {"content": large, "headers": RAW}):
            answer = httpx2.post(url, params={"overlap": 0}, timeout=120, **given)
            assert answer.status_code == 200, answer.text
            np.testing.assert_array_equal(decoded(answer.content) == 255, toy_mask(pixels))
        several = [("files", large)] * 3
        answer = httpx2.post(f"{url}/rle", files=several, params={"overlap": 0}, timeout=120)
        assert [set(each) & {"error"} for each in answer.json()["results"]] == [set()] * 3
        place = {"crs": "EPSG:32615", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 4_100_000)}
        map_of = tiff(np.moveaxis(pixels[:300, :300], 2, 0), **place)
        for format in RESULT_TYPES:
            query: dict[str, str | float] = {"format": format, "overlap": 0}
            answer = httpx2.post(url, files={"file": map_of}, params=query, timeout=120)
            assert answer.status_code == 200, answer.text
        assert post(server).status_code == 200


class TestReload:
    def version(self, server: Server) -> str:
        version: str = httpx2.get(f"{server.url}/models").json()["version"]
        return version

    def reload(self, server: Server, outcome: str) -> None:
        """Send SIGHUP, and wait until it was seen to."""
        name = f'rooftrace_reloads_total{{outcome="{outcome}"}}'
        before, give_up = metric(server, name), time.monotonic() + 20
        server.process.send_signal(signal.SIGHUP)
        while metric(server, name) == before:
            assert time.monotonic() < give_up, server.log.read_text()
            time.sleep(0.05)

    def test_another_bundle_is_taken_up_and_the_old_one_goes(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        bundle = exact_bundle(tmp_path / "bundle")
        server, gate = serve(bundle, module=GATED), Gate(tmp_path, "requests")
        first = self.version(server)
        tasks = Path(f"/proc/{server.process.pid}/task")
        self.reload(server, "loaded")
        threads = len(list(tasks.iterdir()))
        with ThreadPoolExecutor(1) as client:
            url = f"{server.url}/segment"
            files = {"file": IMAGE}
            gate.shut()
            inside = client.submit(httpx2.post, url, files=files, timeout=60)
            wait_until(lambda: gate.is_reached)
            red = channel_graph("red", 224)
            write_toy_bundle(bundle, {"red": 1.0}, graphs={"red": red}, threshold=0.5002)
            self.reload(server, "loaded")
            gate.open()
            second = self.version(server)
            begun_before = inside.result()
        assert first != second
        assert begun_before.headers["x-model-version"] == first
        np.testing.assert_array_equal(
            decoded(begun_before.content) == 255, toy_mask(decoded(IMAGE))
        )
        after = httpx2.post(url, files=files)
        assert after.headers["x-model-version"] == second
        red_of = decoded(IMAGE)[..., 0]
        np.testing.assert_array_equal(decoded(after.content) == 255, red_of / 255 >= 0.5002)
        for _ in range(3):
            self.reload(server, "loaded")
        assert len(list(tasks.iterdir())) <= threads + 1

    def test_one_that_is_asked_for_while_models_load_comes_after_the_start(
        self, tmp_path: Path
    ) -> None:
        """It ended the process, without a word."""
        bundle = exact_bundle(tmp_path / "bundle")
        manifest, port, log = bundle / "manifest.json", free_port(), tmp_path / "log"
        content = manifest.read_bytes()
        manifest.unlink()
        os.mkfifo(manifest)  # whoever reads it waits for what is written below
        with log.open("w") as sink:
            process = subprocess.Popen(
                command("serve", "--port", str(port)),
                cwd=tmp_path,
                env=environment(bundle),
                stdout=sink,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            with manifest.open("wb") as fifo:
                process.send_signal(signal.SIGHUP)
                manifest.unlink()
                manifest.write_bytes(content)
                fifo.write(content)
            server = Server(f"http://127.0.0.1:{port}", process, log)
            wait_until_ready(server)
            wait_until(lambda: metric(server, 'rooftrace_reloads_total{outcome="loaded"}') == 1)
        finally:
            process.kill()
            process.wait()

    def test_a_damaged_one_is_refused_and_the_old_one_serves_on(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        bundle = exact_bundle(tmp_path / "bundle")
        server = serve(bundle)
        first, model = self.version(server), bundle / "green.onnx"
        data, manifest = model.read_bytes(), (bundle / "manifest.json").read_bytes()

        def refused(because: str) -> None:
            self.reload(server, "refused")
            assert self.version(server) == first
            assert post(server).status_code == 200
            said = server.log.read_text().splitlines()[-20:]
            assert any(
                f"reload refused, {first} stays" in line and because in line for line in said
            )

        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        refused("SHA-256")
        model.write_bytes(data[:-1])
        refused("bytes")
        model.unlink()
        refused("green.onnx")
        (bundle / "manifest.json").write_text("{")
        refused("manifest.json")
        assert "Traceback" not in server.log.read_text()
        model.write_bytes(data)
        (bundle / "manifest.json").write_bytes(manifest)
        self.reload(server, "loaded")
