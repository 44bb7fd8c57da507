"""Bodies that are no upload, too large, too slow or too many at once: each has its status."""

import asyncio
import base64
import bz2
import gzip
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.factories import scene
from tests.serving import (
    END,
    FORM,
    PNG,
    RAW,
    Exchange,
    assert_problem,
    encoded,
    exact_bundle,
    part,
    running,
    serving,
)

COMMAND = "`rooftrace segment` takes a GeoTIFF of any size"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with serving(bundle, max_upload_bytes=200_000, max_pixels=10_000) as client:
        yield client


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
            (part("files") + END, ["a file field 'files'", "file=@IMAGE"]),
            (part(filename=None) + END, ["text field 'file'", "file name"]),
            (part() + part("threshold", b"0.5", None) + END, ["'threshold'", "query string"]),
            (part("threshold", b"0.5", None) + part() + END, ["'threshold'", "query string"]),
            (b"".join(part(f"f{i}", b"1", None) for i in range(1000)) + END, ["Too many fields"]),
            (part("text", b"x" * 150_000, None) + END, ["'text'"]),
            (b"--B\r\n\r\nno headers\r\n" + END, ["can't be read"]),
            (b"--B\r\nX: " + b"x" * 100_000 + b"\r\n\r\n\r\n" + END, ["header size exceeded"]),
            (part(filename="x" * 5000) + END, ["header size exceeded"]),
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

    def test_no_boundary_is_named(self, client: TestClient) -> None:
        headers = {"Content-Type": "multipart/form-data"}
        response = client.post("/segment", content=part() + END, headers=headers)
        words = "names no boundary", "Leave this header to your HTTP client"
        assert_problem(response, 400, "Malformed upload", *words)

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
        assert_problem(response, 499, "Client gone", "closed before")
        assert "Traceback" not in caplog.text


class TestNames:
    """Names as clients write them, each of a whole image."""

    @pytest.mark.parametrize(
        ("disposition", "name"),
        [
            (b'filename="a.png"', "a.png"),
            ('filename="café.png"'.encode(), "café.png"),
            (b'filename="caf\xe9.png"', "café.png"),
            (b"filename*=utf-8''caf%C3%A9.png", "café.png"),
            (b"FileName*=UTF-8'fr'caf%C3%A9.png", "café.png"),
            (b"filename*=\"utf-8''a%20b.png\"", "a b.png"),
            (b"filename*=iso-8859-1''caf%E9.png", "café.png"),
            ("filename*=utf-8''café.png".encode(), "café.png"),  # not escaped at all
            (b"filename=\"=?utf-8?B?Y2Fmw6k=?=\"; filename*=utf-8''caf%C3%A9.png", "café.png"),
            (b"filename*=utf-8''a.png; filename=\"b.png\"", "a.png"),
            (b"filename*=utf-8''%FF.png", "\ufffd.png"),
            (b"filename*=koi8-r''%C1.png", ""),  # a file, of a name that nobody can read
            (b'filename*=nonsense; filename="b.png"', "b.png"),
        ],
    )
    def test_a_name(self, client: TestClient, disposition: bytes, name: str) -> None:
        head = b'--B\r\nContent-Disposition: form-data; name="file"; ' + disposition
        body = head + b"\r\n\r\n" + PNG + b"\r\n" + END
        response = client.post("/segment?format=rle", content=body, headers=FORM)
        assert response.status_code == 200, response.text
        assert response.json()["filename"] == name

    @pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream"])
    def test_none_but_the_type_of_a_file(self, client: TestClient, content_type: str) -> None:
        files = {"file": (None, PNG, content_type)}
        response = client.post("/segment?format=rle", files=files)
        assert (response.status_code, response.json()["filename"]) == (200, "")

    @pytest.mark.parametrize("charset", ["latin-1", "nonsense", "base64", "x" * 500])
    def test_a_charset_changes_nothing(self, client: TestClient, charset: str) -> None:
        headers = {"Content-Type": f"{FORM['Content-Type']}; charset={charset}"}
        response = client.post("/segment?format=rle", content=part() + END, headers=headers)
        assert (response.status_code, response.json()["filename"]) == (200, "a.png")

    def test_a_charset_of_no_names(self, client: TestClient) -> None:
        headers = {"Content-Type": f"{FORM['Content-Type']}; charset=undefined"}
        content = part(filename="é.png") + END
        response = client.post("/segment", content=content, headers=headers)
        assert_problem(response, 400, "Malformed upload", "charset", "UTF-8")

    @pytest.mark.parametrize(
        "path", ["/segment?format=rle", "/segment/rle", "/segment/rle?format=csv"]
    )
    def test_half_a_surrogate_pair(self, client: TestClient, path: str) -> None:
        field = "files" if "/rle" in path else "file"
        headers = {"Content-Type": f"{FORM['Content-Type']}; charset=utf-7"}
        content = part(field, filename="+2AA-.png") + END
        response = client.post(path, content=content, headers=headers)
        assert response.status_code == 200, response.text


class TestEncodings:
    @pytest.mark.parametrize(
        "coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, identity"]
    )
    @pytest.mark.parametrize(
        ("path", "headers"),
        [("/segment", RAW), ("/segment", FORM), ("/segment/rle", FORM)],
        ids=["raw", "form", "batch"],
    )
    def test_a_compressed_body(
        self, bundle: Path, path: str, headers: dict[str, str], coding: str
    ) -> None:
        async def announce() -> Exchange:
            async with running(bundle) as app:
                exchange = Exchange(app, "POST", path, {**headers, "Content-Encoding": coding})
                return await asyncio.wait_for(exchange.run(), 10)  # no body ever comes

        exchange = asyncio.run(announce())
        words = "The body comes with", f"Content-Encoding: {coding.partition(',')[0]}", "as it is"
        assert_problem(exchange.response, 415, "Unsupported format", *words)
        assert exchange.response.headers["accept-encoding"] == "identity"
        assert not exchange.asked.is_set()

    @pytest.mark.parametrize("coding", ["identity", "Identity", ""])
    def test_none(self, client: TestClient, coding: str) -> None:
        headers = {**RAW, "Content-Encoding": coding}
        assert client.post("/segment", content=PNG, headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("header", "refused"),
        [
            ("Content-Encoding: gzip", True),
            ("Content-Transfer-Encoding: base64", True),
            ("Content-Transfer-Encoding: Quoted-Printable", True),
            ("Content-Transfer-Encoding: binary", False),
            ("content-transfer-encoding: 8BIT", False),
        ],
    )
    def test_of_a_file(self, client: TestClient, header: str, refused: bool) -> None:
        def coded(field: str) -> bytes:
            return part(field).replace(b"\r\n", f"\r\n{header}\r\n".encode(), 1)

        response = client.post("/segment", content=coded("file") + END, headers=FORM)
        if refused:
            assert_problem(response, 415, "Unsupported format", f"The file comes with {header}")
        else:
            assert response.status_code == 200
        batch = coded("files") + part("files") + END
        response = client.post("/segment/rle", content=batch, headers=FORM)
        first, second = response.json()["results"]
        assert ("error" in first, "error" in second) == (refused, False)


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
            (gzip.compress(PNG), "is compressed with gzip"),
            (bz2.compress(PNG), "is compressed with bzip2"),
            (lzma.compress(PNG), "is compressed with xz"),
            (base64.b64encode(PNG), "is an image in base64"),
            (b"data:image/png;base64," + base64.b64encode(PNG), "is an image in base64"),
            (part(), "is a multipart form, whose Content-Type must say so"),
            (b"hello", "is not an image of a known format"),
        ],
    )
    @pytest.mark.parametrize("raw", [True, False], ids=["raw", "form"])
    def test_other_formats(self, client: TestClient, data: bytes, what: str, raw: bool) -> None:
        content, headers = (data, RAW) if raw else (part(data=data) + END, FORM)
        response = client.post("/segment", content=content, headers=headers)
        assert_problem(response, 415, "Unsupported format", what, "Give a PNG, JPEG, TIFF or WebP.")

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
    """Each is told of the command line, which has no limit."""

    def test_pixels(self, client: TestClient) -> None:
        assert client.post("/segment", content=encoded(scene(100, 100)), headers=RAW).is_success
        response = client.post("/segment", content=encoded(scene(100, 101)), headers=RAW)
        assert_problem(response, 413, "Upload too large", "0.0101", "0.01 megapixels", COMMAND)

    def test_files(self, client: TestClient) -> None:
        response = client.post("/segment", content=part() + part() + END, headers=FORM)
        assert_problem(response, 413, "Upload too large", "one file", "/segment/rle")

    def test_a_body_of_exactly_the_limit(self, client: TestClient) -> None:
        response = client.post("/segment", content=PNG + bytes(200_000 - len(PNG)), headers=RAW)
        assert response.status_code != 413
        response = client.post("/segment", content=PNG + bytes(200_001 - len(PNG)), headers=RAW)
        assert_problem(response, 413, "Upload too large", "200001", "200000", COMMAND)

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
