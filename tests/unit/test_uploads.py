"""Bodies that are no upload, too large, too slow or too many at once: each has its status."""

import asyncio
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.api.admission import Admission, Deadline
from app.errors import DeadlineExceeded
from tests.factories import scene
from tests.serving import Exchange, assert_problem, encoded, exact_bundle, running, serving

PNG = encoded(scene(20, 20))
RAW = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with serving(bundle, max_upload_bytes=200_000, max_pixels=10_000) as client:
        yield client


def part(name: str = "file", data: bytes = PNG, filename: str | None = "a.png") -> bytes:
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


END = b"--B--\r\n"


class TestMalformed:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (END, ["no file", "file=@IMAGE"]),
            (b"", ["ends before its closing boundary"]),
            (part(), ["ends before its closing boundary"]),
            (part()[:-200], ["ends before its closing boundary"]),
            (b"no form at all", ["can't be read"]),
            (part("image") + END, ["'image'", "file=@IMAGE"]),
            (part("files") + END, ["'files'", "file=@IMAGE"]),
            (part(filename=None) + END, ["text field 'file'", "file name"]),
            (part() + part("threshold", b"0.5", None) + END, ["'threshold'", "query string"]),
            (part("threshold", b"0.5", None) + part() + END, ["'threshold'", "query string"]),
            (b"".join(part(f"f{i}", b"1", None) for i in range(1000)) + END, ["Too many fields"]),
            (part("text", b"x" * 150_000, None) + END, ["'text'"]),
            (b"--B\r\n\r\nno headers\r\n" + END, ["can't be read"]),
            (b"--B\r\nX: " + b"x" * 100_000 + b"\r\n\r\n\r\n" + END, ["can't be read"]),
            (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, ['"name"']),
        ],
    )
    def test_a_form(self, client: TestClient, body: bytes, words: list[str]) -> None:
        response = client.post("/segment", content=body, headers=FORM)
        assert_problem(response, 400, "Malformed upload", *words)

    @pytest.mark.parametrize(
        "content_type",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "x" * 5000,
            "multipart/form-data; boundary=C",
            'multipart/form-data; boundary="B',
            "multipart/form-data; boundary=\x01; charset=nonsense",
        ],
    )
    def test_a_boundary(self, client: TestClient, content_type: str) -> None:
        headers = {"Content-Type": content_type}
        response = client.post("/segment", content=part() + b"--B-\r\n", headers=headers)
        assert_problem(response, 400, "Malformed upload", "file=@IMAGE")

    def test_no_body_and_no_content_type(self, client: TestClient) -> None:
        assert_problem(
            client.post("/segment"), 400, "Malformed upload", "missing", "multipart/form-data"
        )

    @pytest.mark.parametrize("headers", [RAW, FORM], ids=["raw", "form"])
    def test_a_client_that_leaves_is_no_fault_of_ours(
        self, bundle: Path, headers: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def leave() -> Exchange:
            async with running(bundle) as app:
                exchange = Exchange(app, "POST", "/segment", headers)
                exchange.body(part()[:100], more=True)
                exchange.leave()
                return await exchange.run()

        response = asyncio.run(leave()).response
        assert_problem(response, 400, "Malformed upload", "closed before")
        assert "Traceback" not in caplog.text


class TestEmpty:
    def test_a_form(self, client: TestClient) -> None:
        response = client.post("/segment", content=part(data=b"") + END, headers=FORM)
        assert_problem(response, 400, "Empty upload", "empty")

    def test_a_form_that_a_browser_sends_without_a_choice(self, client: TestClient) -> None:
        response = client.post("/segment", content=part(data=b"", filename="") + END, headers=FORM)
        assert_problem(response, 400, "Empty upload", "empty")

    def test_a_body(self, client: TestClient) -> None:
        assert_problem(client.post("/segment", content=b"", headers=RAW), 400, "Empty upload")


class TestContent:
    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (b"GIF89a" + bytes(100), "GIF"),
            (b"%PDF-1.7\n", "PDF"),
            (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b"<VRTDataset><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>", "VRT"),
            (b"hello", "no known image format"),
        ],
    )
    @pytest.mark.parametrize("raw", [True, False], ids=["raw", "form"])
    def test_other_formats(self, client: TestClient, data: bytes, what: str, raw: bool) -> None:
        content, headers = (data, RAW) if raw else (part(data=data) + END, FORM)
        response = client.post("/segment", content=content, headers=headers)
        assert_problem(response, 415, "Unsupported format", what, "PNG, JPEG, TIFF and WebP")

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "application/x-www-form-urlencoded", "image/gif", "nonsense"]
    )
    def test_other_content_types(self, client: TestClient, content_type: str) -> None:
        response = client.post("/segment", content=PNG, headers={"Content-Type": content_type})
        assert_problem(response, 415, "Unsupported format", content_type, "image/png", "file=@")

    def test_a_damaged_image(self, client: TestClient) -> None:
        response = client.post("/segment", content=PNG[:-30], headers=RAW)
        assert_problem(response, 422, "Damaged image", "PNG")

    def test_an_image_of_sixteen_bits(self, client: TestClient) -> None:
        data = encoded(np.full((4, 4), 60_000, np.uint16))
        response = client.post("/segment", content=data, headers=RAW)
        assert_problem(response, 422, "Unsupported image", "16")


class TestTooLarge:
    def test_pixels(self, client: TestClient) -> None:
        assert client.post("/segment", content=encoded(scene(100, 100)), headers=RAW).is_success
        response = client.post("/segment", content=encoded(scene(100, 101)), headers=RAW)
        assert_problem(response, 413, "Upload too large", "0.0101", "0.01 megapixels")

    def test_files(self, client: TestClient) -> None:
        response = client.post("/segment", content=part() + part() + END, headers=FORM)
        assert_problem(response, 413, "Upload too large", "1")

    def test_a_body_of_exactly_the_limit(self, client: TestClient) -> None:
        response = client.post("/segment", content=PNG + bytes(200_000 - len(PNG)), headers=RAW)
        assert response.status_code != 413
        response = client.post("/segment", content=PNG + bytes(200_001 - len(PNG)), headers=RAW)
        assert_problem(response, 413, "Upload too large", "200001", "200000")

    @pytest.mark.parametrize(
        ("path", "headers"), [("/segment", RAW), ("/segment", FORM), ("/segment/rle", FORM)]
    )
    def test_by_content_length_before_the_body_is_read(
        self, bundle: Path, path: str, headers: dict[str, str]
    ) -> None:
        async def announce() -> Exchange:
            async with running(bundle, max_upload_bytes=1000) as app:
                length = {"Content-Length": "1001"}
                exchange = Exchange(app, "POST", path, headers | length)
                return await asyncio.wait_for(exchange.run(), 10)  # no body ever comes

        exchange = asyncio.run(announce())
        assert_problem(exchange.response, 413, "Upload too large", "1001", "1000")
        assert not exchange.asked.is_set()

    @pytest.mark.parametrize("headers", [RAW, FORM], ids=["raw", "form"])
    def test_while_it_streams(self, bundle: Path, headers: dict[str, str]) -> None:
        async def stream() -> Exchange:
            async with running(bundle, max_upload_bytes=1000) as app:
                exchange = Exchange(app, "POST", "/segment", headers | {"Content-Length": "10"})
                data = part(data=bytes(2000))  # twice the limit, and the length was a lie
                for i in range(0, len(data), 100):
                    exchange.body(data[i : i + 100], more=True)
                return await asyncio.wait_for(exchange.run(), 10)

        exchange = asyncio.run(stream())
        assert_problem(exchange.response, 413, "Upload too large", "more than 1000")
        assert exchange.sent.qsize() > 5, "it read on after the limit"


@pytest.mark.parametrize("headers", [RAW, FORM], ids=["raw", "form"])
def test_a_body_that_stalls_is_a_408(bundle: Path, headers: dict[str, str]) -> None:
    async def stall() -> Exchange:
        async with running(bundle, receive_timeout=0.2) as app:
            exchange = Exchange(app, "POST", "/segment", headers)
            exchange.body(part()[:100], more=True)
            return await asyncio.wait_for(exchange.run(), 5)

    response = asyncio.run(stall()).response
    assert_problem(response, 408, "Upload timeout", "0.2 seconds")


def test_a_body_in_a_thousand_chunks(bundle: Path) -> None:
    async def dribble() -> Exchange:
        async with running(bundle) as app:
            exchange = Exchange(app, "POST", "/segment", FORM)
            for byte in part() + END:
                exchange.body(bytes([byte]), more=True)
            exchange.body(b"")
            return await exchange.run()

    assert asyncio.run(dribble()).response.status_code == 200


def test_nothing_is_written_to_disk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(OSError, match="nowhere"):
        tempfile.TemporaryFile()  # noqa: SIM115
    with serving(bundle) as client:
        data = bytes(2**21)  # twice what Starlette keeps in memory of its own accord
        response = client.post("/segment", content=part(data=data) + END, headers=FORM)
    assert_problem(response, 415, "Unsupported format")


async def until(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until `done()`."""
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.005)


def waiting_body(app: FastAPI) -> Exchange:
    """Make a request that is let in, and whose body does not come yet."""
    return Exchange(app, "POST", "/segment", RAW)


class TestQueue:
    @pytest.mark.parametrize("path", ["/segment", "/segment/rle"])
    def test_503_when_it_is_really_full(self, bundle: Path, path: str) -> None:
        async def fill() -> tuple[list[httpx2.Response], httpx2.Response, Exchange, int]:
            async with (
                running(bundle, concurrency=1, max_waiting=2) as app,
                asyncio.TaskGroup() as group,
            ):
                inside = [waiting_body(app) for _ in range(3)]  # one at work and two that wait
                tasks = [group.create_task(exchange.run()) for exchange in inside]
                await until(lambda: all(e.asked.is_set() for e in inside))
                ready = Exchange(app, "GET", "/health/ready")
                await ready.run()
                refused = await Exchange(app, "POST", path, FORM).run()
                live = await Exchange(app, "GET", "/health/live").run()
                assert live.response.status_code == 200
                for exchange in inside:
                    exchange.body(PNG)
                answers = [(await task).response for task in tasks]
                after = await Exchange(app, "GET", "/health/ready").run()
                return answers, ready.response, refused, after.response.status_code

        answers, ready, refused, after = asyncio.run(fill())
        for response in (ready, refused.response):
            assert_problem(response, 503, "Queue full", "2 requests are waiting")
            assert int(response.headers["retry-after"]) > 0
        assert not refused.asked.is_set(), "the body was read before it was refused"
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert after == 200

    def test_room_is_given_back_however_a_request_ends(self, bundle: Path) -> None:
        async def end_badly() -> int:
            async with running(
                bundle, concurrency=1, max_waiting=0, receive_timeout=0.5, deadline=20
            ) as app:
                stalled = await waiting_body(app).run()
                assert stalled.response.status_code == 408
                gone = waiting_body(app)
                gone.leave()
                await gone.run()
                for data in (b"", b"nonsense", PNG[:50]):
                    bad = waiting_body(app)
                    bad.body(data)
                    assert (await bad.run()).response.status_code in (400, 415, 422)
                cancelled = asyncio.create_task(waiting_body(app).run())
                await asyncio.sleep(0)
                cancelled.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await cancelled
                stream = Exchange(app, "POST", "/segment/rle?format=ndjson", FORM)
                stream.body(part("files") + END)
                assert (await stream.run()).response.status_code == 200
                good = waiting_body(app)
                good.body(PNG)
                return (await good.run()).response.status_code

        assert asyncio.run(end_badly()) == 200


class TestDeadline:
    # d4 at the largest overlap: seconds of work for the toy.
    SLOW = "/segment?overlap=0.75&tta=d4"

    def test_504_and_the_work_stops(self, bundle: Path) -> None:
        async def be_late() -> tuple[Exchange, float, float]:
            async with running(bundle, deadline=0.3, concurrency=1, lanes=1) as app:
                exchange = Exchange(app, "POST", self.SLOW, RAW)
                exchange.body(encoded(scene(1000, 1000)))
                started = time.perf_counter()
                await exchange.run()
                answered = time.perf_counter() - started
                # The only thread is free again long before the work could have been done.
                nxt = waiting_body(app)
                nxt.body(PNG)
                assert (await nxt.run()).response.status_code in (200, 504)
                await until(lambda: idle("lane") and idle("request"))
                return exchange, answered, time.perf_counter() - started

        exchange, answered, stopped = asyncio.run(be_late())
        problem = assert_problem(exchange.response, 504, "Deadline exceeded", "0.3 seconds")
        assert "smaller" in problem["detail"]
        assert 0.3 <= answered < 10  # all of it would take minutes
        assert stopped < 20

    def test_work_that_waits_past_it_never_begins(self, bundle: Path) -> None:
        async def queue_up() -> httpx2.Response:
            async with running(bundle, deadline=0.3, concurrency=1, lanes=1) as app:
                admission, release = app.state.service.admission, threading.Event()
                busy = asyncio.create_task(admission.run(release.wait, Deadline(30)))
                await asyncio.sleep(0)  # it has the only thread before the request comes
                late = waiting_body(app)
                late.body(b"not even an image")  # a 415, were it ever looked at
                await late.run()
                release.set()
                await busy
                return late.response

        assert_problem(asyncio.run(queue_up()), 504, "Deadline exceeded")

    def test_nor_does_it_when_the_event_loop_is_late_to_cancel_it(self) -> None:
        async def queue_up() -> bool:
            admission, release = Admission(concurrency=1, max_waiting=1), threading.Event()
            begun: list[None] = []
            busy = asyncio.create_task(admission.run(release.wait, Deadline(30)))
            late = asyncio.create_task(admission.run(lambda: begun.append(None), Deadline(0.05)))
            await asyncio.sleep(0)
            time.sleep(0.1)  # the loop stands still, and the deadline passes
            release.set()
            time.sleep(0.1)  # the thread turns to what waited
            with pytest.raises(DeadlineExceeded):
                await late
            await busy
            admission.close()
            return bool(begun)

        assert not asyncio.run(queue_up())


def idle(prefix: str) -> bool:
    """Ask whether no thread whose name starts with `prefix` is inside of our code."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if not thread.name.startswith(prefix):
            continue
        while frame is not None:
            if "/app/" in frame.f_code.co_filename:
                return False
            frame = frame.f_back
    return True


def test_the_event_loop_stays_free_while_networks_run(bundle: Path) -> None:
    async def ask_meanwhile() -> list[float]:
        async with running(bundle, lanes=1) as app:
            exchange = Exchange(app, "POST", "/segment?overlap=0.75", RAW)
            exchange.body(encoded(scene(400, 400)))
            task: asyncio.Task[Exchange] = asyncio.create_task(exchange.run())
            took = []
            while not task.done():
                started = time.perf_counter()
                await Exchange(app, "GET", "/health/live").run()
                took.append(time.perf_counter() - started)
                await asyncio.sleep(0.01)
            assert (await task).response.status_code == 200
            return took

    took = asyncio.run(ask_meanwhile())
    assert len(took) > 5
    assert sorted(took)[len(took) // 2] < 0.1
