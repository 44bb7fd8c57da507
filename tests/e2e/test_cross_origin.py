"""A page of another origin, in a real Chromium, on a real server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from app.api.cors import EXPOSED
from tests.e2e.conftest import IN_CHROMIUM, Serve
from tests.factories import scene
from tests.serving import decoded, encoded, toy_mask

pytestmark = IN_CHROMIUM

PIXELS = scene(40, 60)
KEY = "a-good-key-of-some-length"

ASK = """async ([url, bytes, headers, field]) => {
  const image = new Blob([new Uint8Array(bytes)], { type: "image/png" });
  let body = image;
  if (field) { body = new FormData(); body.append(field, image, "a.png"); }
  const response = await fetch(url, { method: "POST", body, headers });
  const content = new Uint8Array(await response.arrayBuffer());
  return {
    status: response.status, headers: Object.fromEntries(response.headers), body: [...content],
  };
}"""


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A map</title>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A server on another port, with nothing but an empty page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(origin)
    yield page
    page.close()


def ask(
    page: Page,
    url: str,
    data: bytes,
    headers: dict[str, str] | None = None,
    field: str | None = "file",
) -> dict[str, Any]:
    """Post from the page; return status, headers and body as its script can read them."""
    answer: dict[str, Any] = page.evaluate(ASK, [url, list(data), headers or {}, field])
    return answer | {"body": bytes(answer["body"])}


@pytest.mark.parametrize("field", ["file", None])
def test_it_reads_masks_headers_and_problems(
    page: Page, origin: str, serve: Serve, exact: Path, field: str | None
) -> None:
    server = serve(exact, cors_origins=f"https://elsewhere.example.org,{origin}")
    answer = ask(page, f"{server.url}/segment", encoded(PIXELS), field=field)
    assert answer["status"] == 200
    np.testing.assert_array_equal(decoded(answer["body"]) == 255, toy_mask(PIXELS))
    assert float(answer["headers"]["x-building-fraction"]) == pytest.approx(
        toy_mask(PIXELS).mean(), abs=1e-6
    )
    always = {name.lower() for name in EXPOSED[:6]}
    assert always <= answer["headers"].keys()

    problem = ask(page, f"{server.url}/segment", b"<svg/>", field=field)
    assert problem["status"] == 415
    assert problem["headers"]["content-type"] == "application/problem+json"
    assert b"The file is an SVG drawing." in problem["body"]

    lines = ask(page, f"{server.url}/segment/rle?format=ndjson", encoded(PIXELS), field="files")
    assert lines["headers"]["content-type"] == "application/x-ndjson"
    assert b'"filename":"a.png"' in lines["body"]


def test_it_sends_a_key_and_learns_that_one_is_needed(
    page: Page, origin: str, serve: Serve, exact: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    server = serve(exact, cors_origins=origin, api_keys=tmp_path / "keys", rate_limit=2)
    url = f"{server.url}/segment"
    missing = ask(page, url, encoded(PIXELS))
    assert (missing["status"], missing["headers"]["www-authenticate"]) == (401, "Bearer")
    given = ask(page, url, encoded(PIXELS), {"Authorization": f"Bearer {KEY}"})
    assert given["status"] == 200
    ask(page, url, encoded(PIXELS), {"Authorization": f"Bearer {KEY}"})
    often = ask(page, url, encoded(PIXELS), {"Authorization": f"Bearer {KEY}"})
    assert often["status"] == 429
    assert int(often["headers"]["retry-after"]) > 0


def test_without_its_name_in_the_setting_it_reads_nothing(
    page: Page, serve: Serve, exact: Path
) -> None:
    for settings in ({}, {"cors_origins": "https://elsewhere.example.org"}):
        server = serve(exact, **settings)
        with pytest.raises(Exception, match="Failed to fetch"):
            ask(page, f"{server.url}/segment", encoded(PIXELS))
