"""The plugin in QGIS itself, against a real server."""

import ast
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio import features

from tests.e2e.conftest import ROOT, Server, running_server
from tests.e2e.gated import GATED, Gate
from tests.factories import write_toy_bundle
from tests.maps import BUILDINGS, NORTH_UP, UTM, geotiff, picture, plan
from tests.qgis.conftest import PYTHON, QGIS_PROCESS, qgis_environment, qgis_is_missing
from tests.serving import encoded

CLIENT = ROOT / "clients" / "qgis"
KEY, BUSY_KEY = "a-key-that-is-long-enough", "the-key-of-a-busy-client"
MASK = plan()

needs_qgis = pytest.mark.skipif(qgis_is_missing() is not None, reason=str(qgis_is_missing()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the toy bundle that asks for a key."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "keys").write_text(f"{KEY}\n{BUSY_KEY}\n")
    bundle = write_toy_bundle(folder / "bundle")
    keys = folder / "keys"
    with running_server(folder, bundle, module=GATED, api_keys=keys, rate_limit=120) as server:
        yield server


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    """The gate of the server's jobs, which a test may shut."""
    gate = Gate(server.log.parent)
    yield gate
    gate.open()


@pytest.fixture
def imagery(tmp_path: Path) -> Path:
    path = tmp_path / "imagery.tif"
    path.write_bytes(geotiff(picture(MASK)))
    return path


def zipped(folder: Path) -> Path:
    """Build the plugin's zip as a user does."""
    script = str(CLIENT / "build.py")
    return Path(subprocess.check_output([sys.executable, script, folder], text=True).strip())


def run(folder: Path, server: Server | str, **task: Any) -> dict[str, Any]:
    """Run the algorithm in a QGIS of its own; `task` is what `run_plugin.py` takes."""
    address = server if isinstance(server, str) else server.url
    output = str(folder / "found.gpkg")
    given = {"SERVICE": address, "API_KEY": KEY, "OUTPUT": output, **task.pop("parameters")}
    task = {"project": None, "cancel_at": None, "parameters": given, **task}
    answer = subprocess.run(
        [PYTHON, str(Path(__file__).with_name("run_plugin.py"))],
        input=json.dumps(task),
        env={**qgis_environment(folder), "PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    done = dict(json.loads(answer.stdout.splitlines()[-1]))
    # QGIS reports what goes wrong with the parameters, and raises what goes wrong later.
    return done | {"problem": done["problem"] or done["log"]}


def read(path: str | Path) -> tuple[pyproj.CRS, list[Any], dict[str, NDArray[Any]]]:
    """Return the reference system, the polygons and the columns of a GeoPackage."""
    meta, _, wkb, values = pyogrio.raw.read(path)
    columns = dict(zip(meta["fields"], values, strict=True))
    return pyproj.CRS(meta["crs"]), list(shapely.from_wkb(wkb)), columns


def drawn(shapes: list[Any]) -> NDArray[np.bool_]:
    """Rasterise polygons on the grid of the imagery."""
    shapes_and_values = [(shape, 1) for shape in shapes]
    return features.rasterize(shapes_and_values, MASK.shape, transform=NORTH_UP).astype(bool)


@needs_qgis
@pytest.mark.skipif(QGIS_PROCESS is None, reason="qgis_process is not installed")
def test_installed_from_its_zip_it_runs_in_qgis_process(
    server: Server, imagery: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "profiles" / "default"
    with zipfile.ZipFile(zipped(tmp_path)) as archive:
        archive.extractall(profile / "python" / "plugins")
    (profile / "QGIS").mkdir()
    (profile / "QGIS" / "QGIS3.ini").write_text("[PythonPlugins]\nrooftrace=true\n")
    found = tmp_path / "found.gpkg"
    given = {"INPUT": imagery, "SERVICE": server.url, "OUTPUT": found}
    done = subprocess.run(
        [
            *(str(QGIS_PROCESS), "--json", "run", "rooftrace:segmentbuildings", "--"),
            *(f"{name}={value}" for name, value in given.items()),
        ],
        env={**qgis_environment(tmp_path), "ROOFTRACE_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout[done.stdout.index("{") :])["results"] == {"OUTPUT": str(found)}
    crs, shapes, columns = read(found)
    assert crs.equals(UTM)
    np.testing.assert_array_equal(drawn(shapes), MASK)
    assert len(shapes) == BUILDINGS
    assert columns["area_m2"].sum() == pytest.approx(MASK.sum() * 0.2502, rel=1e-3)
    assert (columns["confidence"] > 0.9).all()


@needs_qgis
def test_an_extent_options_and_the_projects_reference_system(
    server: Server, imagery: Path, tmp_path: Path
) -> None:
    # The L and the block, of 800 and 600 pixels; half a pixel more than its own.
    left, bottom, right, top = 500_000.25, 3_999_964.75, 500_020.25, 3_999_999.75
    given = {
        "INPUT": str(imagery),
        "EXTENT": f"{left},{right},{bottom},{top} [{UTM}]",
        "MIN_AREA": 130,
        "RECTIFY": True,
    }
    done = run(tmp_path, server, project="EPSG:3857", parameters=given)
    assert done["ok"], done
    assert "0.00 megapixels" in done["log"]
    assert "1 building" in done["log"]
    crs, [shape], columns = read(done["results"]["OUTPUT"])
    assert crs.equals("EPSG:3857")
    block = shapely.box(500_003, 3_999_987.5, 500_018, 3_999_997.5)
    to_map = pyproj.Transformer.from_crs(UTM, "EPSG:3857", always_xy=True)
    expected = shapely.transform(block, lambda xy: np.stack(to_map.transform(*xy.T), axis=1))
    assert shape.intersection(expected).area / shape.union(expected).area > 0.99
    assert columns["area_m2"] == pytest.approx([150.1], rel=1e-3)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Imagery of 1.3 megapixels, which goes as a job."""
    path = tmp_path / "large.tif"
    path.write_bytes(geotiff(picture(np.tile(MASK, (12, 10)))))
    return path


def jobs(server: Server) -> list[dict[str, Any]]:
    """List what the service keeps of the plugin's user."""
    answer = httpx2.get(f"{server.url}/jobs", headers={"Authorization": f"Bearer {KEY}"})
    return list(answer.json()["jobs"])


@needs_qgis
def test_a_large_raster_goes_as_a_job_of_which_nothing_is_kept(
    server: Server, gate: Gate, large: Path, tmp_path: Path
) -> None:
    def open_gate() -> None:
        while not any(job["progress"] > 0 for job in jobs(server)):
            time.sleep(0.5)
        asked = server.log.read_text().count("GET /jobs/{jobID} ")
        while server.log.read_text().count("GET /jobs/{jobID} ") < asked + 2:
            time.sleep(0.1)
        gate.open()

    gate.shut(after=1)
    opener = threading.Thread(target=open_gate, daemon=True)
    opener.start()
    done = run(tmp_path, server, parameters={"INPUT": str(large), "MIN_AREA": 100})
    opener.join(timeout=10)
    assert done["ok"], done
    assert "1.30 megapixels" in done["log"]
    assert done["progress"] == sorted(done["progress"])
    assert len(set(done["progress"])) >= 2
    assert done["progress"][-1] == 100
    _, shapes, columns = read(done["results"]["OUTPUT"])
    assert (columns["area_m2"] > 99).all()
    assert len(shapes) == 3 * 120, "yard, L and block of each tile"
    assert "/processes/{processID}/execution 201" in server.log.read_text()
    assert jobs(server) == []


@needs_qgis
def test_cancelling_ends_the_job(server: Server, gate: Gate, large: Path, tmp_path: Path) -> None:
    gate.shut(after=1)
    done = run(tmp_path, server, parameters={"INPUT": str(large)}, cancel_at=0.5)
    assert done["results"] == {}
    assert 0 < done["progress"][-1] < 100
    assert not (tmp_path / "found.gpkg").exists()
    assert jobs(server) == []


@needs_qgis
@pytest.mark.parametrize("inside", [True, False])
def test_a_mask_goes_with_the_imagery(
    server: Server, imagery: Path, tmp_path: Path, inside: bool
) -> None:
    """One inside of the TIFF with a part of it, and one beside it with the whole."""
    height, width = MASK.shape
    valid = np.arange(width) >= width // 2
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES" if inside else "NO"),
        rasterio.open(imagery, "r+") as file,
    ):
        file.write_mask(np.broadcast_to(valid, (height, width)))
        left, bottom, right, top = file.bounds
    assert imagery.with_name("imagery.tif.msk").exists() != inside
    extent = {"EXTENT": f"{left + 1},{right},{bottom},{top} [{UTM}]"} if inside else {}
    done = run(tmp_path, server, parameters={"INPUT": str(imagery), **extent})
    assert done["ok"], done
    _, shapes, _ = read(done["results"]["OUTPUT"])
    np.testing.assert_array_equal(drawn(shapes), MASK & valid)


@needs_qgis
def test_numbers_are_sent_with_all_their_digits(
    server: Server, imagery: Path, tmp_path: Path
) -> None:
    done = run(tmp_path, server, parameters={"INPUT": str(imagery), "THRESHOLD": 0.9999999})
    assert done["ok"], "rounded, it would be 1, which is refused"


@needs_qgis
def test_a_busy_service_is_asked_again(server: Server, imagery: Path, tmp_path: Path) -> None:
    refused = "POST /segment 429"

    def keep_busy() -> None:
        with httpx2.Client(headers={"Authorization": f"Bearer {BUSY_KEY}"}) as client:
            while refused not in server.log.read_text():
                client.get(f"{server.url}/models")

    others = threading.Thread(target=keep_busy, daemon=True)
    others.start()
    done = run(tmp_path, server, parameters={"INPUT": str(imagery), "API_KEY": BUSY_KEY})
    assert refused in server.log.read_text()
    others.join(timeout=10)
    assert done["ok"], done
    assert "The service is busy; it is asked again in 1 s." in done["log"]


@needs_qgis
def test_a_web_layer_is_sent_as_it_is_drawn(server: Server, tmp_path: Path) -> None:
    size, side = 256, 2 * 20037508.342789244 / 2**17
    pixels = np.full((size, size, 3), (40, 90, 60), np.uint8)
    pixels[64:160, 64:192] = 230
    column, row = 69176, 44418
    (tmp_path / "17" / str(column)).mkdir(parents=True)
    (tmp_path / "17" / str(column) / f"{row}.png").write_bytes(encoded(pixels))
    west, north = -20037508.342789244 + column * side, 20037508.342789244 - row * side
    layer = f"wms://type=xyz&zmin=17&zmax=17&url=file://{tmp_path}/{{z}}/{{x}}/{{y}}.png"
    extent = f"{west},{west + side},{north - side},{north} [EPSG:3857]"
    done = run(tmp_path, server, parameters={"INPUT": layer, "EXTENT": extent, "RESOLUTION": 0.5})
    assert done["ok"], done
    crs, [shape], columns = read(done["results"]["OUTPUT"])
    assert crs.equals("EPSG:3857")
    step = side / size
    expected = shapely.box(
        west + 64 * step, north - 160 * step, west + 192 * step, north - 64 * step
    )
    assert shape.intersection(expected).area / shape.union(expected).area > 0.97
    # Metres on the ground, not of Web Mercator, which are 1.55 times as long there.
    ground = expected.area * np.cos(np.radians(50)) ** 2
    assert columns["area_m2"] == pytest.approx([ground], rel=0.03)
    done = run(tmp_path, server, parameters={"INPUT": layer})
    assert "comes from the web and has no end: choose an extent" in done["problem"]


@needs_qgis
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"API_KEY": ""}, "The service refused (401, "),
        ({"API_KEY": "another-key-just-as-long"}, "The service refused (403, "),
        ({"SERVICE": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer (Connection re"),
        ({"SERVICE": "localhost"}, "must begin with http:// or https://"),
        (
            {"THRESHOLD": 1},
            "The service refused (422, Invalid option): threshold must be less than 1",
        ),
        ({"EXTENT": f"0,1,0,1 [{UTM}]"}, "The extent lies outside the layer imagery"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(
    server: Server, imagery: Path, tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    done = run(tmp_path, server, parameters={"INPUT": str(imagery), **parameters})
    assert not done["ok"]
    assert words in done["problem"]
    assert "Traceback" not in done["log"]


@needs_qgis
def test_a_picture_without_a_place_is_refused(server: Server, tmp_path: Path) -> None:
    picture_file = tmp_path / "picture.png"
    PIL.Image.fromarray(picture(MASK)).save(picture_file)
    done = run(tmp_path, server, parameters={"INPUT": str(picture_file)})
    words = "picture has no coordinate reference system. Set one in its properties"
    assert words in done["problem"]


def test_the_zip_holds_the_plugin_alone_and_is_the_same_each_time(tmp_path: Path) -> None:
    once, twice = zipped(tmp_path / "a"), zipped(tmp_path / "b")
    assert once.read_bytes() == twice.read_bytes()
    with zipfile.ZipFile(once) as archive:
        names = archive.namelist()
        metadata = archive.read("rooftrace/metadata.txt").decode()
    assert {name.split("/")[0] for name in names} == {"rooftrace"}
    files = {"__init__.py", "LICENSE", "icon.svg", "metadata.txt"}
    assert files <= {name.split("/")[1] for name in names}
    from app import __version__

    assert f"version={__version__}\n" in metadata


def test_it_imports_qgis_and_the_standard_library_alone() -> None:
    allowed = {"qgis", "osgeo", *sys.stdlib_module_names}
    for path in (CLIENT / "rooftrace").glob("*.py"):
        source = path.read_text()
        assert source.startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n"), path
        for node in ast.walk(ast.parse(source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert {name.split(".")[0] for name in names} <= allowed, (path, names)
