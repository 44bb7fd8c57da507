"""Live tiles of a real server: a host that goes down and comes back, many at once, real imagery."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import numpy as np
import PIL.Image
import pytest

from app.imaging.image import Image
from app.segmentation.options import Options, TileOptions
from app.segmentation.segmenter import load_segmenter, stream
from app.segmentation.stream import Band, never
from app.settings import Settings
from app.tiles.cache import Cache
from app.tiles.grid import Area, Block, Tile, pixel_at
from app.tiles.maps import draw, open_maps
from benchmarks.tiles import measure, places
from tests.data import DATA, needs_data
from tests.e2e.conftest import Serve
from tests.tilehost import city, hosting, segmented_at_once

Z = 18
BUNDLE = Settings(_env_file=None).bundle


def opaque(png: bytes) -> np.ndarray:
    """Read where a tile is not transparent."""
    with PIL.Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGBA"))[..., 3] > 0


def test_a_map_that_is_looked_at(serve: Serve, exact: Path) -> None:
    """24 tiles at once, twice; then the host goes down, and the map stays as far as it is known."""
    column, row = pixel_at(-94.4932, 37.0720, Z)
    x, y = column // 256, row // 256
    with hosting() as host:
        source = {"url": f"{host.template}?token=secret", "rescale": "0,255", "sharpen": 0}
        server = serve(exact, backend="onnxruntime", tile_sources=json.dumps({"city": source}))
        address = f"{server.url}/tiles/city/{Z}"
        paths = [f"{address}/{x + i}/{y + j}.png" for i in range(6) for j in range(4)] * 2
        with httpx2.Client(timeout=120) as client, ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(client.get, paths))
            assert {answer.status_code for answer in answers} == {200}
            for path, answer in zip(paths, answers, strict=True):
                left, top = (256 * int(part) for part in path.removesuffix(".png").split("/")[-2:])
                assert np.mean(opaque(answer.content) != city(left, top, 256, 256)) <= 0.01
            host.stop()
            assert client.get(paths[0]).status_code == 200
            refused = client.get(f"{address}/{x + 100}/{y}.png")
            assert refused.status_code == 502
            host.start()
            time.sleep(int(refused.headers["retry-after"]) + 0.1)
            assert client.get(f"{address}/{x + 100}/{y}.png").status_code == 200
    assert server.stop() == 0
    assert "secret" not in server.log.read_text()


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(not BUNDLE.exists(), reason="no bundle is shipped")
def test_four_tiles_of_four_blocks_are_the_mask_of_the_stitched_imagery() -> None:
    """The shipped models on real imagery: 300 m of Joplin around a corner of four blocks."""
    path = DATA / "geotiff" / "joplin_utm15n_rgb_2048.tif"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    settings = Settings(_env_file=None, tile_sources={"joplin": str(path)})
    column, row = pixel_at(-94.4932, 37.0720, Z)
    first = Block(Z, column // 512, row // 512)
    map = open_maps(settings.tile_sources, settings.tile_timeout, Cache(2**28, 3600))["joplin"]
    options = TileOptions()
    with closing(load_segmenter(BUNDLE, device="cpu")) as segmenter:
        tiles = [
            Tile(Z, 2 * first.column + 1 + i, 2 * first.row + 1 + j) for j in (0, 1) for i in (0, 1)
        ]
        assert len({tile.block for tile in tiles}) == 4
        drawn = [
            opaque(draw(map.predict(t.block, options, segmenter, never), t, options, segmenter))
            for t in tiles
        ]
        stitched = np.block([drawn[:2], drawn[2:]])

        values = segmented_at_once(map, first, segmenter)
        place = Area(Z, first.column * 512, first.row * 512, 1024, 1024).georeference
        nothing = np.broadcast_to(np.uint8(0), (1024, 1024, 3))
        image = Image(nothing, None, place, (), place.gsd(1024, 1024))
        plan = segmenter.plan(image, Options(resample="off"))
        bands = [Band(0, values, values >= plan.threshold)]
        whole = stream(plan, image, bands).assemble(lambda band: band.mask)[256:-256, 256:-256]
    assert 0.05 < whole.mean() < 0.3
    differing = np.mean(stitched != whole)
    print(f"{differing:.3%} of the pixels differ")
    assert differing <= 0.003


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(not BUNDLE.exists(), reason="no bundle is shipped")
def test_tiles_are_as_near_to_a_requests_mask_as_that_is_to_another_requests() -> None:
    """Windows lie elsewhere in each of the three; docs/tiles.md has the figures of many places."""
    path = DATA / "geotiff" / "joplin_utm15n_rgb_2048.tif"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    settings = Settings(_env_file=None, tile_sources={"joplin": str(path)})
    map = open_maps(settings.tile_sources, settings.tile_timeout, Cache(2**28, 3600))["joplin"]
    with closing(load_segmenter(BUNDLE, device="cpu")) as segmenter:
        shares = list(measure(map, next(places(map, Z)), segmenter))
    mean = {name: float(np.mean([share[name] for share in shares])) for name in shares[0]}
    print(mean)
    assert 0 < mean["tiles and alone"] < 1.5 * mean["alone and larger"] + 0.005
