"""What the command line reaches and how it behaves in a shell: each run is a process of its own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rasterio.transform import Affine

from app.commandline import parser
from app.commandline.cli import main
from app.commandline.files import Source, expand, plan_targets
from app.errors import InvalidOption
from app.outputs.choices import FormatName, StreamFormatName
from app.outputs.formats import FORMATS
from app.settings import load_settings
from tests.factories import scene
from tests.geotiff import tiff
from tests.serving import decoded, encoded, toy_mask

ROOT = Path(__file__).parents[2]
PIXELS = scene(48, 64)
UTM = {"crs": "EPSG:32633", "transform": Affine(0.39, 0, 5e5, 0, -0.39, 4e6)}
HEAVY = {"fastapi", "numpy", "onnxruntime", "openvino", "pyproj", "rasterio", "scipy", "shapely"}
VRT = """<VRTDataset rasterXSize="64" rasterYSize="48">{}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{0}"><ColorInterp>{1}</ColorInterp><SimpleSource>
<SourceFilename relativeToVRT="1">map.tif</SourceFilename><SourceBand>{0}</SourceBand>
</SimpleSource></VRTRasterBand>"""


@pytest.fixture
def bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for processes of their own."""
    monkeypatch.setenv("ROOFTRACE_BACKEND", "onnxruntime")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return bundle


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def write_map(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", **UTM))
    return path


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(PIXELS))
    return path


def rooftrace(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def is_exact(mask: Path) -> bool:
    return bool(((decoded(mask.read_bytes()) > 0) == toy_mask(PIXELS)).all())


class TestFolders:
    def test_a_folder_is_searched_and_its_order_kept(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("in/a.png", "in/deep/a.PNG", "in/.hidden/a.png", "in/b.tif.partial/b.png"):
            write_picture(tmp_path / name)
        (tmp_path / "in" / "notes.txt").write_text("no image")
        assert run("segment", "in", "-o", "in/out") == 0
        written = {path.relative_to("in/out").as_posix() for path in Path("in/out").rglob("*.png")}
        assert written == {"a.png", "deep/a.png"}
        assert all(map(is_exact, Path("in/out").rglob("*.png")))
        summary = capsys.readouterr().err.splitlines()[-1]
        assert summary.startswith("2 files segmented, ")
        assert summary.endswith(" s, 0 failed")
        # The results of the first run are no inputs of a second.
        assert run("segment", "in", "-o", "in/out", "--overwrite", "--quiet") == 0
        assert len(list(Path("in/out").rglob("*.png"))) == 2

    def test_a_folder_without_images(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "empty").mkdir()
        assert run("segment", "empty", "-o", "out") == 2
        assert capsys.readouterr().err.startswith("error: empty holds no image: no file ends in")


class TestNetwork:
    def test_names(self) -> None:
        names = {
            "https://host/a%20b.tif?key=v.png": (
                "/vsicurl/https://host/a%20b.tif?key=v.png",
                "a b",
            ),
            "S3://bucket/deep/c.tif": ("/vsis3/bucket/deep/c.tif", "c"),
            "/vsizip/x.zip/d.tif": ("/vsizip/x.zip/d.tif", "d"),
        }
        for name, (for_gdal, stem) in names.items():
            source = Source(name)
            assert source.is_named_by_scheme
            assert (source.for_gdal, source.stem) == (for_gdal, stem)
            assert source.needs_gdal
        assert Source("tiles/a.VRT").needs_gdal
        assert not Source("tiles/a.tif").needs_gdal

    @pytest.mark.parametrize("name", ["http:/host/a.tif", "ftp://host/a.tif"])
    def test_what_is_no_address_is_said_as_it_was_typed(self, name: str) -> None:
        with pytest.raises(
            InvalidOption, match=rf"^{name} has a scheme that is not read: use http://"
        ):
            expand([name], "-")

    def test_a_raster_and_a_picture(self, bundle: Path, tmp_path: Path, served: str) -> None:
        write_map(tmp_path / "web" / "map.tif")
        write_picture(tmp_path / "web" / "tile.png")
        done = rooftrace("segment", f"{served}/web/map.tif", f"{served}/web/tile.png", "-o", "out")
        assert done.returncode == 0, done.stderr
        assert is_exact(tmp_path / "out" / "map.png")
        assert is_exact(tmp_path / "out" / "tile.png")

    def test_what_is_not_there_is_not_called_damaged(self, bundle: Path, served: str) -> None:
        name = f"{served}/none.tif"
        done = rooftrace("segment", name, "-o", "out.png", "--quiet")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {name}: GDAL can't open it: ")
        assert "404" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_vrt_and_its_place(self, bundle: Path, tmp_path: Path) -> None:
        write_map(tmp_path / "map.tif")
        bands = [BAND.format(n, colour) for n, colour in enumerate(("Red", "Green", "Blue"), 1)]
        (tmp_path / "all.vrt").write_text(VRT.format("".join(bands)))
        done = rooftrace("segment", "all.vrt", "-o", "mask.png", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert is_exact(tmp_path / "mask.png")

    def test_a_vrt_in_bulk(self, bundle: Path, tmp_path: Path) -> None:
        write_map(tmp_path / "map.tif")
        bands = [BAND.format(n, colour) for n, colour in enumerate(("Red", "Green", "Blue"), 1)]
        place = "<SRS>EPSG:32633</SRS><GeoTransform>5e5, 0.39, 0, 4e6, 0, -0.39</GeoTransform>"
        (tmp_path / "all.vrt").write_text(VRT.format("".join([place, *bands])))
        done = rooftrace("bulk", "all.vrt", "-o", "out", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list((tmp_path / "out" / "masks").glob("*.tif"))) == 1

    @pytest.mark.parametrize("query", ["", "?key=v&sig=%2B"])
    def test_a_vrt_behind_an_address(
        self, bundle: Path, tmp_path: Path, served: str, query: str
    ) -> None:
        """The query of the VRT is that of its files, and `&` in it stays whole."""
        write_map(tmp_path / "map.tif")
        bands = [BAND.format(n, colour) for n, colour in enumerate(("Red", "Green", "Blue"), 1)]
        (tmp_path / "all.vrt").write_text(VRT.format("".join(bands)))
        done = rooftrace("segment", f"{served}/all.vrt{query}", "-o", "mask.png", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert is_exact(tmp_path / "mask.png")

    def test_a_vrt_without_its_files(self, bundle: Path, tmp_path: Path) -> None:
        """GDAL's own reason is told, and not that there is one."""
        bands = [BAND.format(n, colour) for n, colour in enumerate(("Red", "Green", "Blue"), 1)]
        (tmp_path / "all.vrt").write_text(VRT.format("".join(bands)))
        done = rooftrace("segment", "all.vrt", "-o", "mask.png", "--quiet")
        assert done.returncode == 1
        assert "GDAL can't read it: " in done.stderr
        assert "map.tif" in done.stderr
        assert "See previous exception" not in done.stderr

    def test_a_vrt_that_is_named_otherwise_stays_refused(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        write_map(tmp_path / "map.tif")
        (tmp_path / "all.tif").write_text(VRT.format(""))
        done = rooftrace("segment", "all.tif", "-o", "mask.png", "--quiet")
        assert done.returncode == 1
        assert "a GDAL virtual raster" in done.stderr


class TestBeforeTheRun:
    def test_nothing_that_exists_is_lost(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_picture(tmp_path / "tile.png")
        out = tmp_path / "out.png"
        out.touch()  # as mktemp does
        assert run("segment", "tile.png", "-o", out, "--quiet") == 0
        out.write_bytes(b"precious")
        assert run("segment", "tile.png", "-o", out, "--quiet") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {out} exists: add --overwrite")
        assert error.count("\n") == 1
        assert out.read_bytes() == b"precious"
        assert run("segment", "tile.png", "-o", out, "--quiet", "--overwrite") == 0
        assert is_exact(out)

    def test_a_dry_run_tells_all_and_writes_nothing(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_map(tmp_path / "in" / "map.tif")
        (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        assert run("segment", "in", "-o", "out", "--format", "geojson", "--dry-run") == 1
        out, error = capsys.readouterr()
        assert out.splitlines() == [
            "in/map.tif -> out/map.geojson: 64 x 48 pixels, 0.39 m per pixel",
            "2 files, 1 can't be segmented; nothing was written",
        ]
        assert error.startswith("error: in/bad.png: ")
        assert not (tmp_path / "out").exists()

    def test_gpu_is_cuda(self) -> None:
        assert load_settings(device="gpu").device == "cuda"


class TestSummary:
    def test_areas_are_those_of_the_results(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_map(tmp_path / "map.tif")
        write_picture(tmp_path / "tile.png")
        (tmp_path / "bad.png").write_bytes(b"GIF89a")
        inputs = ("map.tif", "tile.png", "bad.png")
        assert run("segment", *inputs, "-o", "out", "--format", "geojson") == 1
        found = json.loads(Path("out/map.geojson").read_text())
        buildings = sum(
            len(json.loads(Path(f"out/{name}.geojson").read_text())["features"])
            for name in ("map", "tile")
        )
        summary = capsys.readouterr().err.splitlines()[-1]
        area = round(found["building_area_m2"])
        assert summary.startswith(
            f"2 files segmented, {buildings} buildings, {area} m² "
            "(1 file without a GSD not counted), "
        )
        assert summary.endswith(", 1 failed")


class TestShell:
    @pytest.mark.parametrize("command", [(), ("segment",), ("serve",), ("models",)])
    def test_help_waits_for_no_library(self, command: tuple[str, ...]) -> None:
        code = (
            "import sys\nfrom app.commandline.cli import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    print('\\n'.join(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "usage: rooftrace" in done.stdout
        assert not HEAVY & set(done.stdout.split())

    @pytest.mark.parametrize("command", ["serve", "segment", "models", "settings", "completion"])
    def test_every_flag_has_help(self, command: str) -> None:
        [commands] = (a for a in parser.build_parser()._actions if a.dest == "command")
        assert commands.choices is not None
        for action in dict(commands.choices)[command]._actions:
            assert action.help, action.dest

    def test_every_format_can_be_named(self) -> None:
        assert tuple(FORMATS) == get_args(FormatName)
        streamed = tuple(name for name, format in FORMATS.items() if format.write)
        assert streamed == get_args(StreamFormatName)

    @pytest.mark.parametrize("arguments", [("--help",), ("settings",), ("segment", "a", "-o", "-")])
    def test_a_closed_pipe_is_no_error(self, bundle: Path, arguments: tuple[str, ...]) -> None:
        write_picture(Path("a"))
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "app", *arguments]
        with os.fdopen(writing, "wb") as closed:
            done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
        assert done.returncode in (0, 141)  # argparse minds no closed pipe
        assert "Traceback" not in done.stderr
        assert "Broken pipe" not in done.stderr

    @pytest.mark.parametrize("shell", parser.SHELLS)
    def test_completion(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("shtab")
        assert run("completion", shell) == 0
        script = capsys.readouterr().out
        assert "min-confidence" in script
        assert "geoparquet" in script


def test_two_of_a_folder_never_share_a_target(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        write_picture(tmp_path / name)
    sources = expand([str(tmp_path)], "-")
    targets = plan_targets(sources, "out", FORMATS["png"])
    assert sorted(map(str, targets.values())) == ["out/a/x.png", "out/b/x.png"]
