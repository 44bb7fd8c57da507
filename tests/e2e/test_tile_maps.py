"""Live tiles in MapLibre and Leaflet, by the lines that docs/tiles.md has for them."""

import importlib.util
import io
import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import Browser, Page

from app.tiles.grid import pixel_at
from tests.e2e.conftest import IN_CHROMIUM, ROOT, Serve
from tests.tilehost import city, city_cog

pytestmark = IN_CHROMIUM
SIDE, Z = 512, 18
COLUMN, ROW = pixel_at(-94.4932, 37.0720, Z)
_FOUND = importlib.util.find_spec("maplibre")
MAPLIBRE = None if _FOUND is None else Path(str(_FOUND.origin)).parent / "srcjs"
LEAFLET = Path("/usr/share/javascript/leaflet")
"""Where Debian's package libjs-leaflet has it."""
PAGE = f"""<!doctype html><link rel="stylesheet" href="map.css"><script src="map.js"></script>
<style>body {{ margin: 0 }} #map {{ width: {SIDE}px; height: {SIDE}px; background: white }}</style>
<div id="map"></div>"""


@pytest.fixture(scope="module")
def browser(webgl_browser: Browser) -> Browser:
    return webgl_browser


@contextmanager
def somebody_elses_page(script: Path, style: Path) -> Iterator[str]:
    """Serve a page with a map library from an origin of its own."""
    files = {"/": PAGE.encode(), "/map.js": script.read_bytes(), "/map.css": style.read_bytes()}
    types = {".js": "text/javascript", ".css": "text/css"}

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", types.get(Path(self.path).suffix, "text/html"))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def documented(library: str, root: str) -> str:
    """Return the lines of docs/tiles.md for a library, with the address of a service."""
    text = (ROOT / "docs" / "tiles.md").read_text()
    match = re.search(rf"\*\*{library}\*\*.*?```js\n(.*?)```", text, re.DOTALL)
    assert match, f"docs/tiles.md has no lines for {library}"
    return match[1].replace("http://localhost:8000", root)


def middle() -> list[float]:
    """Return the longitude and latitude of the corner that four tiles of the imagery share."""
    world = 256 * 2**Z
    x, y = (COLUMN + SIDE / 2) / world, (ROW + SIDE / 2) / world
    return [360 * x - 180, math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y))))]


def wait_until_drawn(page: Page) -> None:
    """Wait until the map shows the buildings of the city, each where it stands."""
    expected = city(COLUMN, ROW, SIDE, SIDE)
    wrong = 1.0
    for _ in range(150):
        with PIL.Image.open(io.BytesIO(page.locator("#map").screenshot())) as picture:
            drawn = np.asarray(picture.convert("RGB"), np.int16)
        wrong = float(np.mean((drawn.min(axis=2) < 240) != expected))
        if wrong < 0.02:  # a pixel along some outlines
            return
        page.wait_for_timeout(200)
    pytest.fail(f"the map never showed the buildings: {wrong:.1%} of its pixels differ")


@pytest.mark.parametrize(
    ("library", "map_of"),
    [
        pytest.param(
            "MapLibre",
            """async (center) => {
              const style = {version: 8, sources: {}, layers: []};
              globalThis.map = new maplibregl.Map({container: "map", style, center, zoom: 17,
                attributionControl: false, fadeDuration: 0});
              await map.once("load");
            }""",
            marks=pytest.mark.skipif(MAPLIBRE is None, reason="no extra `map` is installed"),
        ),
        pytest.param(
            "Leaflet",
            """([longitude, latitude]) => {
              globalThis.map = L.map("map", {center: [latitude, longitude], zoom: 18,
                zoomControl: false, attributionControl: false, fadeAnimation: false});
            }""",
            marks=pytest.mark.skipif(not LEAFLET.exists(), reason="libjs-leaflet is not installed"),
        ),
    ],
)
def test_a_map_of_another_origin_draws_the_buildings(
    browser: Browser, serve: Serve, exact: Path, tmp_path: Path, library: str, map_of: str
) -> None:
    imagery = tmp_path / "city.tif"
    imagery.write_bytes(city_cog(Z, COLUMN, ROW, SIDE))
    source = {"url": str(imagery), "rescale": "0,255", "sharpen": 0}
    names = ("maplibre-gl.js", "maplibre-gl.css"), ("leaflet.js", "leaflet.css")
    script, style = (
        (MAPLIBRE or Path()) / name if library == "MapLibre" else LEAFLET / name
        for name in names[library == "Leaflet"]
    )
    with somebody_elses_page(script, style) as origin:
        server = serve(exact, tile_sources=json.dumps({"city": source}), cors_origins=origin)
        page = browser.new_page(viewport={"width": SIDE, "height": SIDE})
        problems: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        try:
            page.goto(origin)
            if library == "MapLibre" and not page.evaluate(
                "Boolean(document.createElement('canvas').getContext('webgl2'))"
            ):
                pytest.skip("this Chromium draws no WebGL")
            page.evaluate(map_of, middle())
            page.evaluate(f"async () => {{ {documented(library, server.url)} }}")
            wait_until_drawn(page)
        finally:
            page.close()
    assert not problems
    assert re.search(rf"{server.url}/tiles/city(\?|$)", "\n".join(asked), re.MULTILINE)
    assert [url for url in asked if url.startswith(f"{server.url}/tiles/city/{Z}/")]
