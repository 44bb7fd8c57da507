"""Live tiles as a layer of QGIS, by the connection that docs/tiles.md names."""

import json
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.imaging.encode import ACCENT
from app.tiles.grid import pixel_at
from tests.e2e.conftest import running_server
from tests.factories import write_toy_bundle
from tests.qgis.conftest import PYTHON, qgis_environment, qgis_is_missing
from tests.tilehost import city, city_cog

pytestmark = pytest.mark.skipif(qgis_is_missing() is not None, reason=str(qgis_is_missing()))

SIDE = 512


def test_buildings_are_tinted_over_the_imagery(tmp_path: Path) -> None:
    column, row = pixel_at(-94.4932, 37.0720, 18)
    imagery, picture = tmp_path / "city.tif", tmp_path / "drawn.png"
    imagery.write_bytes(city_cog(18, column, row, SIDE))
    source = {"url": str(imagery), "rescale": "0,255", "sharpen": 0}
    bundle = write_toy_bundle(tmp_path / "bundle", patch_size=64)
    sources = json.dumps({"city": source})
    with running_server(tmp_path, bundle, backend="onnxruntime", tile_sources=sources) as server:
        # docs/tiles.md has this connection.
        address = f"{server.url}/tiles/city/%7Bz%7D/%7Bx%7D/%7By%7D.png"
        layer = f"type=xyz&url={address}&zmin=17&zmax=19"
        script = Path(__file__).with_name("render.py")
        run = subprocess.run(
            [PYTHON, str(script), str(picture), str(SIDE), layer, str(imagery)],
            env=qgis_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        log = server.log.read_text()
    assert run.returncode == 0, run.stderr
    with PIL.Image.open(picture) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    buildings = city(column, row, SIDE, SIDE)
    assert np.abs(drawn[~buildings]).mean() < 5, "black imagery shows through"
    tint = 0.6 * np.array([255, 255, 255]) + 0.4 * np.array(ACCENT)
    near_tint = np.abs(drawn - tint).max(axis=-1) < 12
    near_outline = np.abs(drawn - np.array(ACCENT)).max(axis=-1) < 60
    assert np.mean((near_tint | near_outline)[buildings]) > 0.95
    assert " 200 " in log
