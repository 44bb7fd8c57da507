"""The corpus against a real server: each file and request gets its status, and nothing is left."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.e2e.conftest import Server, is_ready, running_server
from tests.factories import scene
from tests.hostile.corpus import MAX_BYTES, MAX_PIXELS, File, files
from tests.hostile.wire import connect, cpu_seconds, descriptors, resident
from tests.serving import END, FORM, RAW, assert_no_innards, decoded, encoded, part, toy_mask

FILES = files()
SECONDS = 2.0
SPARED = 50 * 2**20  # bytes that memory may have grown by, after everything

GOLDEN = scene(120, 90, seed=7)


@dataclass(frozen=True)
class Target:
    """A server, the folder of its temporary files, and how much it held before."""

    server: Server
    temporary: Path
    resident: int
    descriptors: int

    def post(self, path: str = "/segment", **arguments: Any) -> httpx2.Response:
        return httpx2.post(f"{self.server.url}{path}", timeout=60, verify=False, **arguments)

    def serves(self) -> None:
        """Check that it is as good as ever."""
        answer = self.post(content=encoded(GOLDEN), headers=RAW)
        np.testing.assert_array_equal(decoded(answer.content) == 255, toy_mask(GOLDEN))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, exact: Path) -> Iterator[Target]:
    folder, temporary = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        limits: dict[str, Any] = {
            "max_upload_bytes": MAX_BYTES,
            "max_pixels": MAX_PIXELS,
            "log_level": "info",
        }
        with running_server(folder, exact, **limits, log_format="json") as server:
            target = Target(server, temporary, 0, 0)
            for kind in ("PNG", "JPEG", "WEBP", "TIFF"):  # what is loaded once, is loaded now
                for _ in range(3):
                    largest = encoded(np.zeros((1000, 1000, 3), np.uint8), kind)
                    target.post(content=largest, headers=RAW, params={"overlap": 0})
            target.serves()
            yield Target(server, temporary, resident(server), descriptors(server))


def check(answer: httpx2.Response, status: int, slug: str) -> None:
    """Check status and type, and that nothing of the inside shows."""
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"urn:rooftrace:{slug}"
        assert_no_innards(answer.text)


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_a_file(target: Target, file: File) -> None:
    began = cpu_seconds(target.server.process.pid)
    check(target.post(content=file.data, headers=RAW), *file.answer)
    assert cpu_seconds(target.server.process.pid) - began < SECONDS
    assert target.server.process.poll() is None


def test_all_at_once_and_none_loses_another(target: Target) -> None:
    """As batches of ten, under names that are no names."""
    names = ["../../etc/passwd", "a\0b", "x" * 4000, "\u202egnp.exe", "\r\nX: y", '"; x="', "."]
    for start in range(0, len(FILES), 10):
        batch = [file for file in FILES[start : start + 10] if len(file.data) < MAX_BYTES // 10]
        upload = [("files", (names[i % len(names)], f.data)) for i, f in enumerate(batch)]
        answer = target.post("/segment/rle", files=upload)
        assert answer.status_code == 200, answer.text
        found = [result.get("error", {}).get("status", 200) for result in answer.json()["results"]]
        assert found == [file.answer[0] for file in batch]


PNG_ = encoded(scene(20, 20))
MANY_FIELDS = b"".join(part(f"f{i}", b"1", None) for i in range(1000))
HUGE = b"--B\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n\r\n"
LONG = {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}
MALFORMED = "malformed-upload"


@pytest.mark.parametrize(
    ("headers", "body", "status", "slug"),
    [
        ({}, b"", 400, MALFORMED),
        ({}, PNG_, 400, MALFORMED),
        (RAW, b"", 400, "empty-upload"),
        ({"Content-Type": "image/gif"}, PNG_, 415, "unsupported-format"),
        ({"Content-Type": "text/html"}, PNG_, 415, "unsupported-format"),
        ({"Content-Type": "nonsense/" + "x" * 9000}, PNG_, 415, "unsupported-format"),
        (RAW | {"Content-Encoding": "gzip"}, b"\x1f\x8b" + PNG_, 415, "unsupported-format"),
        (RAW, PNG_ + bytes(MAX_BYTES - len(PNG_)), 200, ""),
        (RAW, PNG_ + bytes(MAX_BYTES - len(PNG_) + 1), 413, "upload-too-large"),
        (RAW | {"X-Huge": "x" * 60_000}, PNG_, 200, ""),
        (RAW | {"Accept": "text/html"}, PNG_, 406, "not-acceptable"),
        (RAW | {"Accept": "image/png;q=nonsense"}, PNG_, 406, "not-acceptable"),
        ({"Content-Type": "multipart/form-data"}, PNG_, 400, MALFORMED),
        (LONG, part() + END, 400, MALFORMED),
        (FORM, b"", 400, MALFORMED),
        (FORM, part(), 400, MALFORMED),
        (FORM, END, 400, MALFORMED),
        (FORM, part("image") + END, 400, MALFORMED),
        (FORM, part() + part() + END, 413, "upload-too-large"),
        (FORM, MANY_FIELDS + END, 400, MALFORMED),
        (FORM, HUGE + END, 400, MALFORMED),
        (FORM, part(data=b"") + END, 400, "empty-upload"),
        (FORM, part(filename="../../etc/passwd") + END, 200, ""),
        (FORM, part(filename="x" * 4000) + END, 200, ""),
        (FORM, part(filename="a\0b") + END, 200, ""),
    ],
)
def test_a_body(
    target: Target, headers: dict[str, str], body: bytes, status: int, slug: str
) -> None:
    check(target.post(content=body, headers=headers), status, slug)


@pytest.mark.parametrize(
    "query",
    [
        *(f"threshold={v}" for v in ("0", "1", "-1", "nan", "inf", "-inf", "x", "", "1e999")),
        *(f"overlap={v}" for v in ("-0.1", "0.76", "nan", "1e9", "0x1")),
        *(f"gsd={v}" for v in ("0", "-1", "inf", "nan", "1e-999")),
        *(f"min_area={v}" for v in ("-1", "nan", "inf")),
        "tta=all",
        "combine=",
        "models=",
        "models=nobody",
        "models=red,red",
        "order=diagonal",
        "format=exe",
        "overlap=0.5&overlap=0.5",
        "nonsense=1",
        "threshold=" + "9" * 10_000,
        "models=" + "x," * 5_000,
        "%00=%00",
        "threshold=0.5%0d%0aX:%20y",
    ],
)
def test_a_parameter(target: Target, query: str) -> None:
    check(target.post(f"/segment?{query}", content=PNG_, headers=RAW), 422, "invalid-option")


@pytest.mark.parametrize("gsd", ["1e-9", "1e9"])
def test_a_gsd_that_would_make_giants_or_dwarfs(target: Target, gsd: str) -> None:
    answer = target.post("/segment", content=PNG_, headers=RAW, params={"gsd": gsd})
    assert answer.status_code in (200, 413, 422)


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/segment", 405, "method-not-allowed"),
        ("TRACE", "/segment", 405, "method-not-allowed"),
        ("POST", "/", 405, "method-not-allowed"),
        ("GET", "/../../etc/passwd", 404, "not-found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "not-found"),
        ("GET", "/web/index.html", 404, "not-found"),
        ("GET", "/" + "a" * 5000, 404, "not-found"),
    ],
)
def test_a_path(target: Target, method: str, path: str, status: int, slug: str) -> None:
    check(httpx2.request(method, f"{target.server.url}{path}"), status, slug)


def test_thousands_of_chunks_of_a_byte(target: Target) -> None:
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in encoded(scene(40, 40)))
    with connect(target.server) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_endless_body_of_unknown_length(target: Target) -> None:
    block = b"10000\r\n" + bytes(65536) + b"\r\n"
    with connect(target.server) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MAX_BYTES // 65536 + 2):
            connection.sendall(block)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_nothing_is_left(target: Target) -> None:
    """After all of the above, in the order of this file."""
    server = target.server
    assert is_ready(server)
    target.serves()
    assert list(target.temporary.iterdir()) == []
    give_up = time.monotonic() + 15
    while descriptors(server) > target.descriptors + 2:
        assert time.monotonic() < give_up, "connections are left open"
        time.sleep(0.2)
    assert resident(server) - target.resident < SPARED
    entries = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert not [entry for entry in entries if "exception" in entry]
    seen = [entry for entry in entries if entry["logger"] == "rooftrace.access"]
    assert seen
    assert not [entry for entry in seen if entry["status"] >= 500]
