"""The page's map, in a real Chromium that draws WebGL in software."""

import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import httpx2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect
from rasterio import Affine

from tests.e2e.browsing import choose, wait_for_result, watched
from tests.e2e.conftest import IN_CHROMIUM, Serve, Server
from tests.geotiff import tiff
from tests.serving import encoded

pytestmark = [
    *IN_CHROMIUM,
    pytest.mark.skipif(find_spec("maplibre") is None, reason="the extra `map` is not installed"),
]
GREEN = (40, 160, 60)


@pytest.fixture(scope="module")
def browser(webgl_browser: Browser) -> Browser:
    return webgl_browser


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A GeoTIFF of 120 m with one building of 40 m in its middle."""
    pixels = np.full((200, 200, 3), 60, np.uint8)
    pixels[67:133, 67:133] = 230
    path = tmp_path / "scene.tif"
    options = {"crs": "EPSG:32615", "transform": Affine(0.6, 0, 360_000, 0, -0.6, 4_100_000)}
    path.write_bytes(tiff(np.moveaxis(pixels, -1, 0), **options))
    return path


def open_map(page: Page, image: Path) -> None:
    choose(page, image)
    wait_for_result(page)
    if not page.evaluate("Boolean(document.createElement('canvas').getContext('webgl2'))"):
        pytest.skip("this Chromium draws no WebGL")
    page.get_by_role("button", name="Map").click()
    expect(page.locator(".maplibregl-ctrl-scale")).to_be_visible()


def looks(page: Page) -> NDArray[np.int16]:
    """Take a picture of the map: int16 (H, W, 3)."""
    shot = page.locator("#map canvas").screenshot()
    with PIL.Image.open(io.BytesIO(shot)) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


def wait_until_drawn(page: Page, colour: tuple[int, int, int], share: float) -> None:
    """Wait until a share of the map has a colour."""
    for _ in range(100):
        if (np.abs(looks(page) - colour).max(axis=2) < 40).mean() > share:
            return
        page.wait_for_timeout(200)
    pytest.fail(f"the map never showed {colour}")


def test_an_image_lies_on_the_map_with_its_buildings(
    browser: Browser, server: Server, scene: Path
) -> None:
    with watched(browser, server.url) as page:
        open_map(page, scene)
        wait_until_drawn(page, (60, 60, 60), 0.2)  # the image
        wait_until_drawn(page, (0, 224, 255), 0.0005)  # the building's outline
        page.locator("#map canvas").click()  # its middle
        facts = page.locator("#facts-of-it")
        expect(facts).to_contain_text(re.compile("1.569 m²"))  # 66² pixels
        page.locator("#map canvas").click(position={"x": 5, "y": 200})
        expect(facts).to_be_hidden()
        expect(page.locator("#disagree")).to_be_hidden()  # the map does not draw it
        page.get_by_role("button", name="Image", exact=True).click()
        expect(page.locator("#viewer")).to_be_visible()
        expect(page.locator("#disagree")).to_be_visible()
        (scene.parent / "text.png").write_text("no image")
        choose(page, scene.parent / "text.png")
        page.get_by_role("button", name="text.png").first.click()
        expect(page.locator("#problem")).to_be_visible()
        expect(page.locator("#switch")).to_be_hidden()


def test_an_image_without_a_place_has_no_map(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "tile.png").write_bytes(encoded(np.full((30, 40, 3), 200, np.uint8)))
    with watched(browser, server.url) as page:
        choose(page, tmp_path / "tile.png")
        wait_for_result(page)
        expect(page.locator("#switch")).to_be_hidden()


def test_without_the_extra_all_but_the_map_is_there(
    browser: Browser, server: Server, scene: Path
) -> None:
    with watched(browser, server.url, service_workers="block") as page:
        told = httpx2.get(f"{server.url}/page.json").json() | {"map": False}
        page.route("**/page.json", lambda route: route.fulfill(json=told))
        page.reload()
        choose(page, scene)
        wait_for_result(page)
        expect(page.locator("#switch")).to_be_hidden()
        expect(page.locator("#scale")).to_contain_text("m")


class _Tiles(BaseHTTPRequestHandler):
    """Answers every tile with a green one."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        body = encoded(np.full((256, 256, 3), GREEN, np.uint8))
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_basemap_is_shown_where_the_operator_names_one(
    browser: Browser, serve: Serve, exact: Path, scene: Path
) -> None:
    tiles = ThreadingHTTPServer(("127.0.0.1", 0), _Tiles)
    threading.Thread(target=tiles.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{tiles.server_port}"
    server = serve(exact, basemap=f"{root}/{{z}}/{{x}}/{{y}}.png", basemap_attribution="Test © us")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    try:
        page.goto(server.url)
        open_map(page, scene)
        wait_until_drawn(page, GREEN, 0.05)
        expect(page.locator(".maplibregl-ctrl-attrib")).to_contain_text("Test © us")
        assert all(re.fullmatch(r"/\d+/\d+/\d+\.png", path) for path in _Tiles.paths)
        allowed = (f"{server.url}/", f"{root}/", f"blob:{server.url}/", "data:")
        assert not [url for url in asked if not url.startswith(allowed)]
    finally:
        page.close()
        tiles.shutdown()
        tiles.server_close()
