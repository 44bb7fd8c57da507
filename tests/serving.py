"""The application as the tests drive it: over a client, or message by message."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.testclient import TestClient
from starlette.types import Message

from app.main import create_app
from app.settings import PREFIX, Settings
from tests.factories import EXACTLY, scene, write_toy_bundle

THRESHOLD = 0.5002
"""Of `exact_bundle`: it lies between two of the values that 0.5 R + 0.3 G + 0.2 B can take, so
that rounding decides nothing."""


def exact_bundle(folder: Path, **options: Any) -> Path:
    """Write the toy bundle with the threshold `THRESHOLD`."""
    return write_toy_bundle(folder, threshold=THRESHOLD, **options)


def toy_probability(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Say what the toy bundle must give for uint8 (H, W, 3), exactly."""
    return (pixels.astype(np.int64) @ np.array([5, 3, 2])) / 2550


def toy_mask(pixels: NDArray[np.uint8], threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Say which pixels must be building for the toy bundle."""
    return toy_probability(pixels) >= threshold


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """Encode pixels as an image file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encoded(scene(20, 20))
RAW = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
END = b"--B--\r\n"


def part(name: str = "file", data: bytes = PNG, filename: str | None = "a.png") -> bytes:
    """Write one part of the multipart form `FORM`."""
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Read a PNG as Pillow alone does."""
    with PIL.Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.asarray(picture)


def settings_of(bundle: Path, **values: Any) -> Settings:
    """Make settings that know nothing of the environment."""
    environment = {name for name in os.environ if name.upper().startswith(PREFIX)}
    assert not environment, f"these would change what is tested: {environment}"
    return Settings(_env_file=None, bundle=bundle, **{**EXACTLY, **values})


@contextmanager
def serving(bundle: Path, **values: Any) -> Iterator[TestClient]:
    """Start the application, and yield a client that shows errors as a network would."""
    app = create_app(settings_of(bundle, **values))
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@asynccontextmanager
async def running(bundle: Path, **values: Any) -> AsyncIterator[FastAPI]:
    """Start the application in this event loop."""
    app = create_app(settings_of(bundle, **values))
    async with app.router.lifespan_context(app):
        yield app


@dataclass
class Exchange:
    """One request, whose body is sent chunk by chunk, and what came back so far."""

    app: FastAPI
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    received: list[Message] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the application asks for the body."""

    async def run(self) -> "Exchange":
        """Let the application handle the request to its end."""
        path, _, query = self.path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in self.headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }

        async def receive() -> Message:
            self.asked.set()
            return await self.sent.get()

        async def send(message: Message) -> None:
            self.received.append(message)

        await self.app(scope, receive, send)
        return self

    def body(self, data: bytes, *, more: bool = False) -> None:
        """Send a chunk of the body."""
        self.sent.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def leave(self) -> None:
        """Close the connection."""
        self.sent.put_nowait({"type": "http.disconnect"})

    @property
    def response(self) -> httpx2.Response:
        """Return what was answered."""
        start, *rest = self.received
        body = b"".join(message.get("body", b"") for message in rest)
        headers = [(k.decode(), v.decode()) for k, v in start["headers"]]
        return httpx2.Response(start["status"], headers=headers, content=body)


def assert_problem(
    response: httpx2.Response, status: int, title: str, *words: str
) -> dict[str, Any]:
    """Check that an answer is a problem as RFC 9457 has it, and that its detail says `words`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert (problem["status"], problem["title"]) == (status, title)
    assert title == title.capitalize()
    assert problem["type"].startswith("urn:rooftrace:")
    assert problem["instance"] == f"urn:rooftrace:request:{response.headers['x-request-id']}"
    for word in words:
        assert word in problem["detail"]
    assert_no_innards(response.text)
    return problem


def assert_no_innards(text: str) -> None:
    """Check that an answer gives away no traceback, no path and no library."""
    for innard in ("Traceback", 'File "', "site-packages", "/app/", "onnxruntime", "Pillow", "PIL"):
        assert innard not in text
