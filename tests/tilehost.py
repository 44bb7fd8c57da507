"""A web server of imagery for live tiles: tiles and a COG, and every kind of fault."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rasterio.transform import Affine

from app.imaging.image import Image
from app.imaging.resample import resample_box
from app.imaging.sharpness import sharpen_soft
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import never
from app.tiles.grid import Area, Block, lattice_of
from app.tiles.maps import Map
from tests.geotiff import tiff

SIDE, SPACING = 40, 120
"""Pixels of a building's side, and from one to the next, on the grid of any zoom."""


def city(left: int, top: int, width: int, height: int) -> NDArray[np.bool_]:
    """Say where buildings are: squares, counted from the north-west of the world."""
    rows, cols = np.arange(top, top + height), np.arange(left, left + width)
    return np.outer(rows % SPACING < SIDE, cols % SPACING < SIDE)


def painted(buildings: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint buildings as toys find them: white on black."""
    return np.repeat(np.multiply(buildings, 255, dtype=np.uint8)[..., np.newaxis], 3, axis=2)


def tile_png(z: int, x: int, y: int) -> bytes:
    """Draw the imagery of a tile."""
    file = io.BytesIO()
    PIL.Image.fromarray(painted(city(256 * x, 256 * y, 256, 256))).save(file, "PNG")
    return file.getvalue()


def city_cog(z: int, left: int, top: int, side: int = 1024) -> bytes:
    """Write the imagery of a zoom's pixels as a tiled GeoTIFF in Web Mercator."""
    metres = 2 * 20037508.342789244 / 256 / 2**z
    west, north = (origin * 20037508.342789244 for origin in (-1, 1))
    return tiff(
        np.moveaxis(painted(city(left, top, side, side)), 2, 0),
        crs="EPSG:3857",
        transform=Affine(metres, 0, west + left * metres, 0, -metres, north - top * metres),
        photometric="rgb",
        tiled=True,
        blockxsize=256,
        blockysize=256,
    )


class Host:
    """A server on one port, which can go down and come back; `asked` are the paths of requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.status: int | None = None
        self.location: str | None = None
        self.garbage = False
        self.seconds = 0.0
        self.ranges = True
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def template(self) -> str:
        """Template of its tiles."""
        return f"{self.url}/{{z}}/{{x}}/{{y}}.png"

    def start(self) -> None:
        """Come back, on the same port."""
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Go down."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request, or fail as the test wants it."""
        self.asked.append(request.path)
        time.sleep(self.seconds)
        headers: dict[str, str] = {"Connection": "close"}
        status, body = 200, b""
        if self.location:
            status, headers["Location"] = 302, self.location
        elif self.status:
            status = self.status
        elif self.garbage:
            body = b"<html>Welcome to the portal</html>"
        elif request.path in self.files:
            body = self.files[request.path]
            asked = request.headers.get("Range")
            if asked and self.ranges:
                first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
                size, body = len(body), body[first : last + 1]
                status = 206
                headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{size}"
        else:
            z, x, y = (
                int(part)
                for part in request.path.partition("?")[0].removesuffix(".png").split("/")[1:]
            )
            body = tile_png(z, x, y)
        request.send_response(status)
        headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True


@contextmanager
def hosting() -> Iterator[Host]:
    """Run a host."""
    host = Host()
    try:
        yield host
    finally:
        host.stop()


def segmented_at_once(map: Map, block: Block, segmenter: Segmenter) -> NDArray[np.float32]:
    """Predict 2 x 2 blocks as one image, with the windows of live tiles: on the tiles' grid."""
    patch = segmenter.manifest.patch_size
    lattice = lattice_of(block, segmenter.manifest.gsd, patch)
    before, side = 300, 1024 + 600
    area = Area(block.z, block.column * 512 - before, block.row * 512 - before, side, side)
    image = map.source.read(area, never)
    image = sharpen_soft(image, map._sharpening(block.z, never))
    seen = 2 * lattice.windows * lattice.stride + patch
    start = before + lattice.start
    box = start, start, start + seen / lattice.scale, start + seen / lattice.scale
    pixels = resample_box(image.pixels, box, (seen, seen), "bicubic")
    plan = segmenter.plan(Image(pixels), Options(overlap=lattice.overlap, resample="off"))
    assert np.diff(plan.grid.row_offsets).tolist() == [lattice.stride] * (2 * lattice.windows)
    values = np.concatenate([b.probability for b in segmenter.bands(plan, Image(pixels))])
    first, last = lattice.stride, lattice.stride * (1 + 2 * lattice.windows)
    return resample_box(values, (first, first, last, last), (1024, 1024), "bilinear")
