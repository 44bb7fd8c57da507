"""Live tiles: seams, zooms, sources and their faults, caching; over the application itself."""

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import pyproj
import pytest
from numpy.typing import NDArray
from rasterio.transform import Affine
from starlette.testclient import TestClient

from app.commandline.cli import main
from app.errors import SettingsError, SourceDown
from app.imaging.image import Image
from app.segmentation.options import TileOptions
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import never
from app.settings import load_settings
from app.tiles.cache import Cache
from app.tiles.grid import Area, Block, Tile, pixel_at
from app.tiles.maps import Map, mirror_beyond, open_maps
from app.tiles.sources import Cog
from app.tiles.spec import TileSource
from tests.factories import EXACTLY, ramp_graph, slow_graph, write_toy_bundle
from tests.geotiff import tiff
from tests.serving import assert_problem, serving, settings_of
from tests.tilehost import Host, city, city_cog, hosting, segmented_at_once

LON, LAT = -94.4932, 37.0720
Z = 18  # 0.48 m here
PLAIN = {"rescale": "0,255", "sharpen": 0}


def tile_at(zoom: int = Z) -> tuple[int, int]:
    """Return x and y of the tile at the place of these tests."""
    column, row = pixel_at(LON, LAT, zoom)
    return column // 256, row // 256


X, Y = tile_at()
ODD = X | 1, Y | 1  # the last of its block, down and across


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("tiles") / "toy", patch_size=64)


@pytest.fixture
def host() -> Iterator[Host]:
    with hosting() as host:
        yield host


def xyz(host: Host, **more: Any) -> dict[str, Any]:
    """Name the host's tiles as a source."""
    return {"city": {"url": host.template, **PLAIN, **more}}


@pytest.fixture
def client(small_bundle: Path, host: Host) -> Iterator[TestClient]:
    with serving(small_bundle, tile_sources=xyz(host)) as client:
        yield client


def shown(response: httpx2.Response) -> NDArray[np.bool_]:
    """Read a tile: where it is not transparent."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    with PIL.Image.open(io.BytesIO(response.content)) as picture:
        assert picture.size == (256, 256)
        rgba = np.asarray(picture.convert("RGBA"))
    seen: NDArray[np.bool_] = rgba[..., 3] > 0
    assert not seen.any() or (rgba[seen][:, :3] == rgba[seen][0, :3]).all()
    return seen


def stitched(client: TestClient, x: int, y: int, query: str = "") -> NDArray[np.bool_]:
    """Fetch four tiles, and put them together."""
    return np.block(
        [
            [shown(client.get(f"/tiles/city/{Z}/{x + i}/{y + j}.png{query}")) for i in (0, 1)]
            for j in (0, 1)
        ]
    )


class TestSeams:
    @pytest.mark.parametrize("corner", [(X & ~1, Y & ~1), ODD], ids=["one block", "four blocks"])
    def test_four_tiles_are_the_mask_of_their_imagery(
        self, client: TestClient, corner: tuple[int, int]
    ) -> None:
        x, y = corner
        truth = city(256 * x, 256 * y, 512, 512)
        assert 0.05 < truth.mean() < 0.2
        assert np.mean(stitched(client, x, y) != truth) <= 0.01

    def test_blocks_are_cut_from_one_map(self, tmp_path: Path, host: Host) -> None:
        """A network that looks at where in its patch a pixel lies shows every seam.

        The reference is one image of the four blocks, segmented at once on the same lattice.
        """
        graphs = {"ramp": ramp_graph(64)}
        bundle = write_toy_bundle(
            tmp_path / "ramp", {"red": 0.6, "ramp": 0.4}, patch_size=64, graphs=graphs
        )
        with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
            map, block = opened(bundle, host), Tile(Z, X, Y).block
            parts = [
                [cut(map, Block(Z, block.column + i, block.row + j), segmenter) for i in (0, 1)]
                for j in (0, 1)
            ]
            whole = segmented_at_once(map, block, segmenter)
        np.testing.assert_allclose(np.block(parts), whole, atol=2e-3)
        # It would show: patches laid from another origin give another map.
        moved = np.roll(whole, 20, axis=1)
        assert np.abs(moved - whole).max() > 0.1

    def test_an_outline_does_not_end_at_a_tiles_edge(self, client: TestClient) -> None:
        """A building across an edge has no line along it."""
        column = next(x for x in range(X, X + 40) if 5 < (256 * x) % 120 < 35)
        row = next(y for y in range(Y, Y + 40) if 120 - (256 * y) % 120 > 60)
        response = client.get(f"/tiles/city/{Z}/{column}/{row}.png")
        with PIL.Image.open(io.BytesIO(response.content)) as picture:
            alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        edge = alpha[:, 0]
        assert {0, 102, 255} == set(np.unique(alpha))
        assert np.count_nonzero(edge == 102) > 3 * np.count_nonzero(edge == 255) > 0


def opened(bundle: Path, host: Host) -> Map:
    """Open the host's tiles as a map, without a service."""
    settings = settings_of(bundle, tile_sources=xyz(host))
    return open_maps(settings.tile_sources, settings.tile_timeout, Cache(2**28, 3600))["city"]


def cut(map: Map, block: Block, segmenter: Segmenter) -> NDArray[np.float32]:
    """Predict a block, and cut its margin off."""
    known = map.predict(block, TileOptions(), segmenter, never)
    assert known.margin > 0
    inner = slice(known.margin, -known.margin)
    return known.values[inner, inner]


def test_beyond_an_edge_the_imagery_is_mirrored() -> None:
    pixels = np.zeros((4, 9, 3), np.uint8)
    valid = np.zeros((4, 9), np.bool_)
    pixels[:, 3:7] = np.array([10, 20, 30, 40], np.uint8)[:, np.newaxis]
    valid[:, 3:7] = True
    filled = mirror_beyond(Image(pixels, valid))
    assert filled.pixels[0, :, 0].tolist() == [40, 30, 20, 10, 20, 30, 40, 30, 20]
    assert filled.valid is valid
    nothing = Image(pixels, np.zeros_like(valid))
    assert mirror_beyond(nothing) is nothing


class TestOptions:
    def test_thresholds_and_areas_come_without_another_prediction(
        self, client: TestClient, host: Host
    ) -> None:
        all_of_them = shown(client.get(f"/tiles/city/{Z}/{X}/{Y}.png"))
        asked = len(host.asked)
        # Squares of 40 pixels of 0.48 m are 365 m².
        large = shown(client.get(f"/tiles/city/{Z}/{X}/{Y}.png?min_area=2000"))
        sure = shown(client.get(f"/tiles/city/{Z}/{X}/{Y}.png?threshold=0.99&min_confidence=1"))
        assert all_of_them.any()
        assert not large.any()
        assert sure.sum() < all_of_them.sum()
        assert len(host.asked) == asked

    def test_an_unknown_parameter(self, client: TestClient) -> None:
        response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png?format=png")
        assert_problem(response, 422, "Invalid option", "format")

    def test_a_parameter_that_comes_twice(self, client: TestClient) -> None:
        response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png?threshold=0.4&threshold=0.5")
        assert_problem(response, 422, "Invalid option", "threshold came more than once")


class TestRefusals:
    def test_an_unknown_source(self, client: TestClient) -> None:
        for path in ("/tiles/town", f"/tiles/town/{Z}/{X}/{Y}.png"):
            assert_problem(client.get(path), 404, "No such tile", "'town'", "GET /tiles")

    def test_no_sources_at_all(self, small_bundle: Path) -> None:
        with serving(small_bundle) as client:
            assert client.get("/tiles").json() == {"sources": []}
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 404, "No such tile", "ROOFTRACE_TILE_SOURCES")

    @pytest.mark.parametrize(
        "numbers", ["18/262144/0", "18/-1/0", "18/0/262144", "99/0/0", "-1/0/0"]
    )
    def test_a_tile_that_the_world_does_not_have(self, client: TestClient, numbers: str) -> None:
        response = client.get(f"/tiles/city/{numbers}.png")
        assert_problem(response, 404, "No such tile", numbers)

    def test_no_numbers(self, client: TestClient) -> None:
        assert_problem(
            client.get("/tiles/city/a/b/c.png"),
            422,
            "Invalid option",
            "z must be a whole number, got 'a'",
        )

    @pytest.mark.parametrize(("zoom", "gsd"), [(10, "122 m"), (16, "1.91 m"), (21, "0.0596 m")])
    def test_a_zoom_that_the_models_do_not_know(
        self, client: TestClient, host: Host, zoom: int, gsd: str
    ) -> None:
        x, y = tile_at(zoom)
        response = client.get(f"/tiles/city/{zoom}/{x}/{y}.png")
        assert_problem(response, 422, "Invalid option", gsd, "0.3 to 0.6 m", "work: 18 to 18")
        assert host.asked == []

    def test_the_gsd_is_that_on_the_ground(self, client: TestClient) -> None:
        """At 62 degrees north the same zoom is half as coarse as at the equator."""
        column, row = pixel_at(10, 62, 17)
        assert client.get(f"/tiles/city/17/{column // 256}/{row // 256}.png").status_code == 200
        column, row = pixel_at(10, 1, 17)
        response = client.get(f"/tiles/city/17/{column // 256}/{row // 256}.png")
        assert_problem(response, 422, "Invalid option", "1.19 m")

    def test_outside_of_the_bounds(self, small_bundle: Path, host: Host) -> None:
        bounds = [LON - 0.01, LAT - 0.01, LON + 0.01, LAT + 0.01]
        with serving(small_bundle, tile_sources=xyz(host, bounds=bounds)) as client:
            assert client.get(f"/tiles/city/{Z}/{X}/{Y}.png").status_code == 200
            response = client.get(f"/tiles/city/{Z}/{X + 100}/{Y}.png")
            assert_problem(response, 404, "No such tile", "outside of the source 'city'", "37.0")
            assert response.headers["cache-control"] == "no-store"

    def test_a_zoom_that_the_source_does_not_have(self, small_bundle: Path, host: Host) -> None:
        with serving(small_bundle, tile_sources=xyz(host, max_zoom=17)) as client:
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 422, "Invalid option", "work: none")


class TestCaching:
    def test_a_tile_is_kept(self, client: TestClient, host: Host) -> None:
        first = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
        asked = len(host.asked)
        again = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
        neighbour = client.get(f"/tiles/city/{Z}/{X ^ 1}/{Y}.png")
        assert asked == len(host.asked) > 0
        assert again.content == first.content != neighbour.content
        assert again.headers["cache-control"] == "public, max-age=3600"
        metrics = client.get("/metrics").text
        for origin in ("predicted", "drawn", "kept"):
            assert f'rooftrace_tiles_total{{origin="{origin}"}} 1.0' in metrics

    def test_a_client_that_has_it_gets_no_bytes(self, client: TestClient) -> None:
        tag = client.get(f"/tiles/city/{Z}/{X}/{Y}.png").headers["etag"]
        for value in (tag, f'"other", W/{tag}', "*"):
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png", headers={"If-None-Match": value})
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == tag
        response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png", headers={"If-None-Match": '"other"'})
        assert response.status_code == 200

    def test_head(self, client: TestClient) -> None:
        response = client.head(f"/tiles/city/{Z}/{X}/{Y}.png")
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 100

    def test_requests_for_one_block_share_its_prediction(self, tmp_path: Path, host: Host) -> None:
        graphs = {"red": slow_graph("red", 64)}
        bundle = write_toy_bundle(tmp_path / "slow", {"red": 1.0}, patch_size=64, graphs=graphs)
        host.seconds = 0.05
        x, y = X & ~1, Y & ~1
        paths = [f"/tiles/city/{Z}/{x + i}/{y + j}.png" for i in (0, 1) for j in (0, 1)] * 2
        with serving(bundle, tile_sources=xyz(host)) as client, ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(client.get, paths))
            metrics = client.get("/metrics").text
        assert {answer.status_code for answer in answers} == {200}
        assert len(set(host.asked)) == len(host.asked), "each of the host's tiles once"
        assert 'rooftrace_tiles_total{origin="predicted"} 8.0' in metrics

    def test_memory_is_bounded(self) -> None:
        cache = Cache(100, 3600)
        for name in range(20):
            cache.put(name, name, 30)
            cache.get(0)
        assert cache.free >= 0
        kept = [name for name in range(20) if cache.get(name) is not None]
        assert kept == [0, 18, 19], "the one that is used stays"
        cache.put("large", 1, 101)
        assert cache.get("large") is None

    def test_what_is_old_goes(self) -> None:
        cache = Cache(100, 0.01)
        cache.put("a", 1, 10)
        time.sleep(0.02)
        assert cache.get("a") is None
        assert cache.free == 100


class TestFaults:
    def test_down_and_back(self, client: TestClient, host: Host) -> None:
        path = f"/tiles/city/{Z}/{X}/{Y}.png"
        host.stop()
        response = client.get(path)
        assert_problem(response, 502, "Source down", "'city' can't be reached")
        assert 1 <= int(response.headers["retry-after"]) <= 3
        assert response.headers["cache-control"] == "no-store"
        host.start()
        assert client.get(path).status_code == 502, "it is left alone for a while"
        assert host.asked == []
        time.sleep(2.1)
        assert shown(client.get(path)).any()

    def test_the_wait_doubles(self, client: TestClient, host: Host) -> None:
        host.status = 500
        waits = []
        for _ in range(2):
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 502, "Source down", "answered with status 500")
            waits.append(int(response.headers["retry-after"]))
            time.sleep(2.1)
        assert waits == [2, 4]

    @pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
    def test_a_status_that_is_no_tile(self, client: TestClient, host: Host, status: int) -> None:
        host.status = status
        response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
        assert_problem(response, 502, "Source down", f"answered with status {status}")

    def test_no_redirect_is_followed(self, client: TestClient, host: Host) -> None:
        with hosting() as other:
            host.location = f"{other.url}/{Z}/{X}/{Y}.png"
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 502, "Source down", "redirects are not followed")
            assert host.asked
            assert other.asked == []

    def test_a_page_in_place_of_a_tile(self, client: TestClient, host: Host) -> None:
        host.garbage = True
        response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
        assert_problem(response, 502, "Source down", "sent a tile that can't be read")

    def test_a_host_that_does_not_answer(self, small_bundle: Path, host: Host) -> None:
        host.seconds = 3
        with serving(small_bundle, tile_sources=xyz(host), tile_timeout=0.2) as client:
            began = time.monotonic()
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 502, "Source down", "did not answer in time")
            assert time.monotonic() - began < 3

    def test_tiles_that_the_host_does_not_have_are_no_fault(
        self, client: TestClient, host: Host
    ) -> None:
        host.status = 404
        assert not shown(client.get(f"/tiles/city/{Z}/{X}/{Y}.png")).any()

    def test_a_deadline(self, small_bundle: Path, host: Host) -> None:
        host.seconds = 1
        with serving(small_bundle, tile_sources=xyz(host), deadline=0.3) as client:
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
            assert_problem(response, 504, "Deadline exceeded")

    def test_a_full_queue(self, small_bundle: Path, host: Host) -> None:
        host.seconds = 1
        limits: dict[str, Any] = {"concurrency": 1, "max_waiting": 0}
        with serving(small_bundle, tile_sources=xyz(host), **limits) as client:
            first = threading.Thread(target=client.get, args=(f"/tiles/city/{Z}/{X}/{Y}.png",))
            first.start()
            while not host.asked:
                time.sleep(0.01)
            response = client.get(f"/tiles/city/{Z}/{X + 8}/{Y}.png")
            assert_problem(response, 503, "Queue full")
            assert "retry-after" in response.headers
            first.join()


class TestCogs:
    LEFT, TOP = 256 * X - 300, 256 * Y - 300

    @pytest.fixture
    def cog(self) -> bytes:
        return city_cog(Z, self.LEFT, self.TOP)

    def check(self, client: TestClient) -> None:
        """Check two by two tiles, one that lies half outside, and one that lies outside."""
        truth = city(256 * X, 256 * Y, 512, 512)
        assert np.mean(stitched(client, X, Y) != truth) <= 0.01
        beyond = shown(client.get(f"/tiles/city/{Z}/{X - 2}/{Y}.png"))
        assert not beyond[:, :200].any(), "no building where there is no imagery"
        assert_problem(
            client.get(f"/tiles/city/{Z}/{X - 3}/{Y}.png"), 404, "No such tile", "outside"
        )

    def test_on_disk(self, small_bundle: Path, tmp_path: Path, cog: bytes) -> None:
        path = tmp_path / "city.tif"
        path.write_bytes(cog)
        with serving(small_bundle, tile_sources={"city": {"url": str(path), **PLAIN}}) as client:
            self.check(client)
            described = client.get("/tiles/city?threshold=0.6").json()
            path.unlink()
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png?threshold=0.7")
            assert response.status_code == 200, "what is known needs no file"
        assert described["tiles"] == ["http://testserver/tiles/city/{z}/{x}/{y}.png?threshold=0.6"]
        assert (described["minzoom"], described["maxzoom"]) == (18, 18)
        west, south, east, north = described["bounds"]
        assert west < LON < east
        assert south < LAT < north

    def test_on_a_web_server(self, small_bundle: Path, host: Host, cog: bytes) -> None:
        host.files["/city.tif"] = cog
        source = {"city": {"url": f"{host.url}/city.tif", **PLAIN}}
        with serving(small_bundle, tile_sources=source) as client:
            self.check(client)
            host.stop()
            assert client.get(f"/tiles/city/{Z}/{X}/{Y}.png").status_code == 200, "it is kept"
            response = client.get(f"/tiles/city/{Z}/{X}/{Y + 2}.png")
            assert_problem(response, 502, "Source down", "can't be reached")
            host.start()
            time.sleep(2.1)
            assert client.get(f"/tiles/city/{Z}/{X}/{Y + 2}.png").status_code == 200

    def test_no_redirect_is_followed(self, small_bundle: Path, host: Host) -> None:
        with hosting() as other:
            host.location = f"{other.url}/city.tif"
            source = {"city": f"{host.url}/city.tif"}
            with serving(small_bundle, tile_sources=source) as client:
                response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
                assert_problem(response, 502, "Source down", "redirects are not followed")
            assert other.asked == []

    def test_a_server_without_ranges(self, small_bundle: Path, host: Host, cog: bytes) -> None:
        host.files["/city.tif"], host.ranges = cog, False
        with serving(small_bundle, tile_sources={"city": f"{host.url}/city.tif"}) as client:
            response = client.get("/tiles/city")
            assert_problem(response, 502, "Source down", "range requests")

    def test_what_is_no_geotiff(self, small_bundle: Path, tmp_path: Path, host: Host) -> None:
        """A VRT would lead GDAL to other files and hosts."""
        vrt = f"<VRTDataset><SRS>{host.url}</SRS></VRTDataset>"
        path = tmp_path / "city.tif"
        path.write_text(vrt)
        host.files["/city.tif"] = vrt.encode()
        for url in (str(path), f"{host.url}/city.tif"):
            with serving(small_bundle, tile_sources={"city": url}) as client:
                response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png")
                assert_problem(response, 502, "Source down", "can't be read")
        assert set(host.asked) == {"/city.tif"}

    def square(self, path: Path, crs: str, lon: float, pixel: float, turned: float = 0) -> None:
        """Draw a white square of 40 pixels in the middle of a black raster, at `LAT`."""
        to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
        place = to_crs.transform(lon, LAT)
        if lon > 180:  # PROJ counts from -180
            x, y = to_crs.transform(lon - 360, LAT)
            west, east = (to_crs.transform(at, LAT)[0] for at in (-90, 90))
            place = x + 2 * (east - west), y
        to_map = Affine.translation(*place) @ Affine.rotation(turned) @ Affine.scale(pixel, -pixel)
        square = np.zeros((3, 200, 200), np.uint8)
        square[:, 80:120, 80:120] = 255
        transform = to_map @ Affine.translation(-100, -100)
        path.write_bytes(tiff(square, crs=pyproj.CRS(crs).to_wkt(), transform=transform))

    @pytest.mark.parametrize(
        ("crs", "lon", "pixel", "turned"),
        [
            ("EPSG:32615", LON, 0.5, 30),
            ("EPSG:32615", LON, 0.5, 180),
            ("EPSG:32760", 180, 0.5, 0),
            ("EPSG:4326", 180, 5e-6, 0),
            ("EPSG:4269", -180, 5e-6, 0),
            ("EPSG:4326", 360 + LON, 5e-6, 0),
            ("EPSG:3857", 180, 0.5, 0),
            ("EPSG:3857", -180, 0.5, 0),
            ("EPSG:3857", 360 + LON, 0.5, 0),
            ("EPSG:3395", 180, 0.5, 0),
            ("EPSG:6933", 180, 0.5, 0),
            ("EPSG:3832", 180, 0.5, 0),
            ("EPSG:3832", -30, 0.5, 0),
            ("+proj=tmerc +lat_0=37 +lon_0=-94 +datum=NAD83 +units=us-ft", LON, 1.5, 0),
        ],
    )
    def test_it_lies_where_it_says(
        self, tmp_path: Path, crs: str, lon: float, pixel: float, turned: float
    ) -> None:
        path = tmp_path / "city.tif"
        self.square(path, crs, lon, pixel, turned)
        with closing(Cog("city", TileSource(url=str(path), **PLAIN), 1, Cache(10**6, 60))) as cog:
            column, row = pixel_at((lon + 180) % 360 - 180, LAT, Z)
            image = cog.read(Area(Z, column - 200, row - 200, 400, 400), never)
            west, south, east, north = cog.bounds()
        found = np.argwhere(image.pixels[..., 0] > 127)
        assert len(found) > 1000
        # The place is somewhere in the pixel whose corner is (200, 200).
        np.testing.assert_allclose(found.mean(axis=0), 200, atol=0.6)
        assert south < LAT < north
        assert (west > east) == (abs(lon) == 180)

    def test_across_the_antimeridian(self, small_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "chatham.tif"
        self.square(path, "EPSG:32760", 180, 0.5)
        last, y = 2**Z - 1, pixel_at(0, LAT, Z)[1] // 256
        with serving(small_bundle, tile_sources={"city": {"url": str(path), **PLAIN}}) as client:
            described = client.get("/tiles/city").json()
            west, east = (shown(client.get(f"/tiles/city/{Z}/{x}/{y}.png")) for x in (last, 0))
            response = client.get(f"/tiles/city/{Z}/{X}/{y}.png")
        assert (described["bounds"][0], described["bounds"][2]) == (-180, 180), "it must not wrap"
        assert abs(described["center"][0]) == pytest.approx(180)
        sides = west[:, -10:].sum(), east[:, :10].sum()
        assert min(sides) > 300
        assert sides[0] == pytest.approx(sides[1], rel=0.1)
        assert_problem(response, 404, "No such tile", "outside")

    def test_a_system_that_gdal_takes_for_another(self, tmp_path: Path) -> None:
        """It would be drawn some 500 m off."""
        path = tmp_path / "city.tif"
        place = Affine.translation(0, -550_000) @ Affine.scale(0.5, -0.5)
        path.write_bytes(tiff(np.ones((3, 9, 9), np.uint8), crs="EPSG:9311", transform=place))
        source = TileSource(url=str(path), **PLAIN)
        with (
            closing(Cog("city", source, 1, Cache(10**6, 60))) as cog,
            pytest.raises(SourceDown, match="EPSG:9311 is not valid where it lies, or can't be"),
        ):
            cog.bounds()

    def test_a_raster_without_a_place(self, small_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "city.tif"
        PIL.Image.new("RGB", (64, 64)).save(path)
        with serving(small_bundle, tile_sources={"city": str(path)}) as client:
            assert_problem(client.get("/tiles/city"), 502, "Source down", "no georeference")


class TestDescriptions:
    def test_the_list(self, small_bundle: Path, host: Host) -> None:
        sources = xyz(host, attribution="The city")
        with serving(small_bundle, tile_sources=sources) as client:
            assert client.get("/tiles").json() == {
                "sources": [{"name": "city", "attribution": "The city", "tilejson": "tiles/city"}]
            }
            described = client.get("/tiles/city").json()
        assert described["tilejson"] == "3.0.0"
        assert described["attribution"] == "The city"
        assert described["bounds"] == pytest.approx([-180, -85.0511, 180, 85.0511], abs=1e-3)
        assert host.asked == []

    @pytest.mark.parametrize(
        ("settings", "root"),
        [
            ({}, "http://testserver"),
            ({"public_url": "https://example.org/roofs/"}, "https://example.org/roofs"),
        ],
    )
    def test_addresses_of_tiles_are_absolute(
        self, small_bundle: Path, host: Host, settings: dict[str, str], root: str
    ) -> None:
        # TileJSON 3.0.0, section 3.2: map clients take no others.
        with serving(small_bundle, tile_sources=xyz(host), **settings) as client:
            described = client.get("/tiles/city?min_area=20").json()
        assert described["tiles"] == [f"{root}/tiles/city/{{z}}/{{x}}/{{y}}.png?min_area=20.0"]

    def test_other_origins_may_use_them(self, small_bundle: Path, host: Host) -> None:
        origin = "https://map.example.org"
        with serving(small_bundle, tile_sources=xyz(host), cors_origins=origin) as client:
            response = client.get(f"/tiles/city/{Z}/{X}/{Y}.png", headers={"Origin": origin})
            assert response.headers["access-control-allow-origin"] == origin
            assert "ETag" in response.headers["access-control-expose-headers"]


class TestSettings:
    @pytest.mark.parametrize("value", ["example.org", "ftp://example.org", "https://a.org/?x=1"])
    def test_a_public_address_that_is_none(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_PUBLIC_URL", value)
        with pytest.raises(
            SettingsError, match=r"must be an address, https://host\[:port\]\[/path\]"
        ):
            load_settings()

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("city.tif", "it is not JSON"),
            ('{"city": "a.tif", "city": "b.tif"}', "the key 'city' comes more than once"),
            ("[]", "an object of names"),
            ('{"a/b": "x"}', "can't name a source"),
            ('{"city": "/nowhere.tif"}', "must be a file that is there, or an address"),
            ('{"city": "/vsicurl/http://host/a.tif"}', "not a name of GDAL's"),
            ('{"city": "ftp://host/a.tif"}', "http:// or https://"),
            ('{"city": "{z}/{x}/{y}.png"}', "http:// or https://"),
            ('{"city": "https://{x}.host/{z}/{x}/{y}.png"}', "http:// or https://"),
            ('{"city": "https://host/{z}/{x}.png"}', "{z}, {x} and {y}"),
            ('{"city": {"url": "https://host/{z}/{x}/{y}.png", "sharpened": 1}}', "sharpened"),
            ('{"city": {"url": "https://host/{z}/{x}/{y}.png", "rescale": "9,1"}}', "LOW < HIGH"),
            (
                '{"city": {"url": "https://host/{z}/{x}/{y}.png", "bounds": [9, 0, 1, 1]}}',
                "west, south, east, north",
            ),
            (
                '{"city": {"url": "https://host/{z}/{x}/{y}.png", "min_zoom": 9, "max_zoom": 8}}',
                "exceeds max_zoom",
            ),
        ],
    )
    def test_refusals(self, monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
        monkeypatch.setenv("ROOFTRACE_TILE_SOURCES", value)
        with pytest.raises(SettingsError) as refused:
            load_settings()
        assert words in str(refused.value)
        assert str(refused.value).startswith("ROOFTRACE_TILE_SOURCES")

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = {"a": "https://host/{z}/{x}/{-y}.png", "b": {"url": "http://host/b.tif"}}
        monkeypatch.setenv("ROOFTRACE_TILE_SOURCES", json.dumps(sources))
        found = load_settings().tile_sources
        assert [found[name].is_template for name in "ab"] == [True, False]
        assert found["b"].is_remote

    def test_they_are_printed_as_they_are_set(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sources = {"a": {"url": "https://host/{z}/{x}/{y}.png", "bounds": [1, 2, 3, 4]}}
        monkeypatch.setenv("ROOFTRACE_TILE_SOURCES", json.dumps(sources))
        assert main(["settings"]) == 0
        [line] = [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("ROOFTRACE_TILE_SOURCES=")
        ]
        assert json.loads(line.partition("=")[2]) == sources
