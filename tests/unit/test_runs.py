"""Files in, files out: where results go, rasters a few rows at a time, and runs that go on."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import Affine

from app.commandline.cli import main
from app.commandline.files import Source, choose_format, expand, make_folders, plan_targets
from app.commandline.resume import partial_folder
from app.commandline.runs import tell
from app.errors import InvalidOption
from app.imaging.files import open_image
from app.jobs.bands import KeptBands
from app.jobs.blobs import Folder
from app.outputs.formats import FORMATS
from app.segmentation.stream import Band
from tests.factories import scene, toy_cascade
from tests.geotiff import tiff
from tests.serving import (
    THRESHOLD,
    decoded,
    encoded,
    exact_bundle,
    serving,
    toy_mask,
    toy_probability,
)
from tests.terminal import terminal

UTM = {"crs": "EPSG:32633", "transform": Affine(0.39, 0, 5e5, 0, -0.39, 4e6)}
PIXELS = scene(150, 60)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(PIXELS))
    return path


@pytest.fixture
def map_file(tmp_path: Path) -> Path:
    path = tmp_path / "map.tif"
    path.write_bytes(tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", **UTM))
    return path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def mask_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def names(inputs: list[str], output: str = "-") -> list[str]:
    return [source.name for source in expand(inputs, output)]


class TestFiles:
    def test_a_folder_says_what_it_leaves_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("in/deep").mkdir(parents=True)
        for name in ("a.b.tif", "a.b.tfw", "a.b.tif.aux.xml", "deep/c.TIF", "deep/.d", "e.tif."):
            Path("in", name).touch()
        assert names(["in"]) == ["in/a.b.tif", "in/deep/c.TIF", "in/e.tif."]
        assert capsys.readouterr().err == "", "files beside an image are its own"
        for name in ("scan.jp2", "deep/a.tfw", "notes"):
            Path("in", name).touch()
        assert len(names(["in"])) == 3
        said = capsys.readouterr().err
        assert said.startswith("notice: left out in/deep/a.tfw and 2 more files: images end in .p")

    def test_a_linked_folder_is_searched_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("in/a.tif", "in/out/done.tif", "elsewhere/b.tif"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        Path("in/linked").symlink_to(tmp_path / "elsewhere")
        Path("in/twice").symlink_to(tmp_path / "elsewhere")
        Path("in/circle").symlink_to(tmp_path / "in")
        Path("elsewhere/results").symlink_to(tmp_path / "in" / "out")
        assert names(["in"], "in/out") == ["in/a.tif", "in/linked/b.tif"]
        assert names(["in", "elsewhere", "in/circle/a.tif"], "in/out") == names(["in"], "in/out")
        assert names(["in/**/*.tif"]) == ["in/a.tif", "in/linked/b.tif", "in/out/done.tif"]
        assert [str(source.folder) for source in expand(["in"], "in/out")] == [".", "linked"]
        assert capsys.readouterr().err == ""

    def test_a_folder_that_may_not_be_read_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("in/closed").mkdir(parents=True)
        Path("in/a.tif").touch()
        Path("in/closed").chmod(0)
        try:
            if os.access("in/closed", os.R_OK):
                pytest.skip("root reads every folder")
            assert names(["in"]) == ["in/a.tif"]
        finally:
            Path("in/closed").chmod(0o700)
        assert capsys.readouterr().err == "notice: left out in/closed: Permission denied\n"

    def test_a_dot_at_the_end_of_a_name_begins_no_ending(self) -> None:
        [target] = plan_targets([Source("trailing.tif.")], "out/", FORMATS["gpkg"]).values()
        assert str(target) == "out/trailing.gpkg"

    def test_patterns_are_looked_up_where_the_shell_did_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("b.tif", "a.tif", "deep/c.tif", "odd[1].tif"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()
        assert names(["[ab].tif"]) == ["a.tif", "b.tif"]
        assert names(["deep/**/*.tif", "b.tif", "b.tif"]) == ["deep/c.tif", "b.tif"]
        assert names(["odd[1].tif", "none.tif"]) == ["odd[1].tif", "none.tif"]
        assert names([str(tmp_path / "?.tif")]) == [f"{tmp_path}/a.tif", f"{tmp_path}/b.tif"]
        with pytest.raises(InvalidOption, match=r"\*\.png matches no file"):
            expand(["*.png"], "-")
        with pytest.raises(InvalidOption, match="- is standard input"):
            expand(["-", "a.tif"], "-")

    @pytest.mark.parametrize(
        ("output", "named", "format"),
        [
            ("out.tif", None, "geotiff"),
            ("out.GEOJSON", None, "geojson"),
            ("out.png", None, "png"),
            ("out.overlay.png", None, "overlay"),
            ("out.probability.png", None, "probability"),
            ("out.png", "probability", "probability"),
            ("out.tif/", None, "png"),
            ("folder", None, "png"),
            ("folder", "geojson", "geojson"),
            ("-", None, "png"),
            ("-", "rle", "rle"),
        ],
    )
    def test_the_ending_chooses_the_format(
        self, output: str, named: str | None, format: str
    ) -> None:
        assert choose_format(output, named).name == format

    def test_an_ending_of_nothing(self) -> None:
        with pytest.raises(
            InvalidOption, match=r"-o out\.jpg has none of the endings of results: \.png"
        ):
            choose_format("out.jpg", None)

    def test_a_folder_or_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        format = choose_format("x.tif", None)
        one = [Source("in/a.jp2")]
        Path("v1.0").mkdir()

        def targets(output: str) -> list[str]:
            planned = plan_targets(one, output, format)
            make_folders(planned.values())
            return [str(target) for target in planned.values()]

        assert targets("x/y.tif") == ["x/y.tif"]
        assert Path("x").is_dir()
        assert targets("x") == targets("x/") == ["x/a.tif"]
        assert targets("new.d/") == ["new.d/a.tif"]
        assert targets("v1.0") == ["v1.0/a.tif"]
        assert targets("-") == ["-"]
        with pytest.raises(InvalidOption, match=r"one file for 2 inputs: name a folder"):
            plan_targets([*one, Source("b.tif")], "x.tif", format)
        with pytest.raises(InvalidOption, match="takes the result of one input, got 2"):
            plan_targets([*one, Source("b.tif")], "-", format)


def test_parameters_are_told_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    tell("notice", "a.tif", "gsd=0.3 was used: min_area and simplify follow it, as the models do.")
    assert capsys.readouterr().err == (
        "notice: a.tif: --gsd 0.3 was used: --min-area and simplify follow it, as the models do.\n"
    )


class TestOneFilesFault:
    def test_the_others_go_on(
        self, bundle: Path, map_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tif"))
        latin.write_bytes(map_file.read_bytes())
        off = tmp_path / "off.tif"
        nowhere = {"crs": "EPSG:4326", "transform": Affine(1, 0, 500, 0, -1, 500)}
        off.write_bytes(tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb", **nowhere))
        out = tmp_path / "out"
        assert (
            run("segment", latin, off, map_file, "-o", f"{out}/", "--format", "geojson", "--quiet")
            == 1
        )
        err = capsys.readouterr().err
        assert "not UTF-8" in err
        assert "not valid" in err
        assert "Traceback" not in err
        assert [path.name for path in out.iterdir()] == ["map.geojson"]

    @pytest.mark.parametrize("more", [[], ["--dry-run"]])
    def test_is_told_in_one_line_that_does_not_obey_its_name(
        self, more: list[str], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        odd = tmp_path / "a\nb\x1b[2Jc\u202e.tif"
        odd.write_bytes(b"no image")
        run("segment", odd, "-o", tmp_path / "out.geojson", "--quiet", *more)
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path}/a\N{REPLACEMENT CHARACTER}b")
        assert line.isprintable()

    @pytest.mark.parametrize("name", ["geotiff", "geojson"])
    def test_nor_by_a_name_that_is_too_long_for_its_result(
        self, name: str, bundle: Path, map_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(map_file, map_file.with_name("x" * 250 + ".tif"))
        out = map_file.parent / "out"
        out.mkdir()  # where it is not, nothing looks for results in it
        inputs = str(map_file.parent / "*.tif")
        assert run("segment", inputs, "-o", out, "--format", name, "--quiet", "--no-style") == 1
        assert "can't be written: File name too long" in capsys.readouterr().err
        assert [path.stem for path in out.iterdir()] == ["map"]

    def test_not_even_by_a_fault_of_ours(
        self,
        bundle: Path,
        map_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        other = tmp_path / "other.tif"
        other.write_bytes(map_file.read_bytes())

        def opened(path: Path, **options: object) -> object:
            if path == map_file:
                raise ZeroDivisionError("for a test")
            return open_image(path, **options)  # type: ignore[arg-type]

        monkeypatch.setattr("app.commandline.inputs.open_image", opened)
        out = tmp_path / "out"
        assert run("segment", map_file, other, "-o", f"{out}/", "--quiet") == 1
        assert "an unforeseen ZeroDivisionError in test_runs.py" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == ["other.png"]


def test_files_beside_a_picture_tell_its_place(bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "ortho.png"
    picture.write_bytes(encoded(PIXELS))
    picture.with_suffix(".pgw").write_text("0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n")
    picture.with_suffix(".prj").write_text(pyproj.CRS("EPSG:32633").to_wkt("WKT1_ESRI"))
    out = tmp_path / "out.geojson"
    assert run("segment", picture, "-o", out, "--resample", "off", "--quiet") == 0
    found = json.loads(out.read_text())
    assert "coordinate_system" not in found
    assert found["building_area_m2"] == pytest.approx(toy_mask(PIXELS).sum() * 0.2502, rel=1e-3)


class TestStreaming:
    @pytest.mark.parametrize("name", ["geotiff", "geojson"])
    @pytest.mark.parametrize("options", [{}, {"min_area": "1.2", "gsd": "0.3", "overlap": "0.5"}])
    def test_a_file_is_what_the_service_answers(
        self,
        bundle: Path,
        map_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        options: dict[str, str],
    ) -> None:
        out = tmp_path / ("out.tif" if name == "geotiff" else "out.geojson")
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        assert run("segment", map_file, "-o", out, *arguments, "--quiet") == 0
        monkeypatch.delenv("ROOFTRACE_BUNDLE")
        monkeypatch.delenv("ROOFTRACE_DEVICE")
        with serving(bundle) as client:
            files = {"file": ("map.tif", map_file.read_bytes())}
            answer = client.post("/segment", params={"format": name, **options}, files=files)
        assert answer.status_code == 200, answer.text
        assert out.read_bytes() == answer.content
        style = {"out.qml"} if name == "geotiff" else set()
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"bundle", "map.tif", out.name} | style

    def test_a_style_lies_beside_a_geotiff_alone(
        self, bundle: Path, map_file: Path, tmp_path: Path
    ) -> None:
        def written(output: str, *flags: str) -> set[str]:
            before = set(tmp_path.rglob("*"))
            assert run("segment", map_file, "-o", tmp_path / output, *flags, "--quiet") == 0
            return {path.name for path in set(tmp_path.rglob("*")) - before}

        assert written("a.tif", "--no-style") == {"a.tif"}
        assert written("a.tif", "--overwrite") == {"a.qml"}
        own = tmp_path / "a.qml"
        own.write_text("a style of the user's own")
        assert written("a.tif", "--overwrite") == set()
        assert own.read_text() == "a style of the user's own"
        # QGIS would draw the input by it.
        assert written("map.tiff", "--format", "geotiff") == {"map.tiff"}

    def test_an_image_larger_than_an_upload_may_be(
        self,
        bundle: Path,
        map_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_MAX_PIXELS", "8999")
        assert run("segment", map_file, "-o", tmp_path / "out.tif", "--quiet") == 0
        np.testing.assert_array_equal(mask_of(tmp_path / "out.tif") == 1, toy_mask(PIXELS))
        # What is held whole is refused before its rows are read.
        monkeypatch.setattr("app.imaging.raster.Raster", lambda *_: pytest.fail("it was read"))
        for output in (tmp_path / "out.png", "-"):
            assert run("segment", map_file, "-o", output, "--quiet") == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert "has 60 x 150 pixels. As png, or to -, its result is held in memory" in err
            assert "which is for 8999 pixels at most. Write coco, geojson, geotiff, gpkg" in err

    def test_deep_samples_and_rescale(
        self, bundle: Path, map_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deep = np.moveaxis(PIXELS, 2, 0).astype(np.uint16) * 100
        map_file.write_bytes(tiff(deep, photometric="rgb", **UTM))
        out = tmp_path / "out.tif"
        assert run("segment", map_file, "-o", out, "--rescale", "0,25500", "--quiet") == 0
        np.testing.assert_array_equal(mask_of(out) == 1, toy_mask(PIXELS))
        assert "--rescale 0,25500,0,25500,0,25500, as asked" in capsys.readouterr().err

    def test_a_picture_streams_as_well(
        self, bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("segment", picture, "-o", tmp_path / "out.geojson", "--quiet") == 0
        assert json.loads((tmp_path / "out.geojson").read_text())["coordinate_system"] == "pixel"
        assert "coordinates are pixels" in capsys.readouterr().err

    def test_an_output_that_the_image_cannot_give_leaves_nothing(
        self, bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("segment", picture, "-o", tmp_path / "out.tif", "--quiet") == 1
        assert "no georeference" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {"bundle", "picture.png"}

    def test_progress_is_told_in_square_kilometres(
        self, bundle: Path, map_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with terminal() as (stream, shown):
            monkeypatch.setattr(sys, "stderr", stream)
            assert run("segment", map_file, "-o", tmp_path / "out.tif") == 0
            map_file.write_bytes(encoded(PIXELS))
            assert run("segment", map_file, "-o", tmp_path / "out.geojson") == 0
        area = 150 * 60 * (0.39 / 0.9996) ** 2 / 1e6
        in_area, in_pixels = shown().split(" segmented, ")[:2]
        assert re.search(rf"100%\|█+\| {area:.4g}/{area:.4g} km²", in_area)
        assert "km²/min" in in_area
        assert "image/s" not in in_area
        assert "0.009/0.009 megapixels" in in_pixels

    def test_standard_input_and_output(
        self, bundle: Path, map_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def piped(*arguments: str) -> bytes:
            out = io.BytesIO()
            stdin = io.TextIOWrapper(io.BytesIO(map_file.read_bytes()))
            stdout = io.TextIOWrapper(out)
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdin", stdin)
                patch.setattr(sys, "stdout", stdout)
                assert run("segment", *arguments, "--quiet") == 0
            return out.getvalue()

        mask = decoded(piped("-", "-o", "-"))
        np.testing.assert_array_equal(mask == 255, toy_mask(PIXELS))
        (tmp_path / "piped.tif").write_bytes(piped(str(map_file), "-o", "-", "--format", "geotiff"))
        np.testing.assert_array_equal(mask_of(tmp_path / "piped.tif") == 1, toy_mask(PIXELS))
        assert piped("-", "-o", str(tmp_path / "folder")) == b""
        assert (tmp_path / "folder" / "stdin.png").exists()
        assert piped("-", "-o", str(tmp_path / "in.tif")) == b""
        np.testing.assert_array_equal(mask_of(tmp_path / "in.tif") == 1, toy_mask(PIXELS))


# What the interrupted runs are of: 125 bands of windows, and few buildings.
TALL = np.kron(scene(150, 10), np.ones((20, 20, 1), np.uint8))


@pytest.fixture
def tall(tmp_path: Path) -> Path:
    path = tmp_path / "tall.tif"
    path.write_bytes(tiff(np.moveaxis(TALL, 2, 0), photometric="rgb", nodata=7, **UTM))
    return path


def _hear_ctrl_c() -> None:
    """Where the tests run as a shell's background job, they ignore it, and so would a child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(source: Path, target: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run as a process, and give it once some bands are saved."""
    command = [
        sys.executable,
        "-m",
        "app",
        "segment",
        source,
        "-o",
        target,
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_ctrl_c,
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(partial_folder(target).glob("*.band"))) < 10 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        yield process


def interrupted(how: signal.Signals, source: Path, target: Path, *options: str) -> tuple[int, int]:
    """Run as a process that is sent a signal after some bands; return its end, and how many."""
    with started(source, target, *options) as process:
        process.send_signal(how)
        status = process.wait(60)
    return status, len(list(partial_folder(target).glob("*.band")))


class TestGoingOn:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("out.tif", ()),
            ("out.tif", ("--gsd", "0.3", "--overlap", "0.6", "--bands", "mask,probability")),
            ("out.geojson", ("--gsd", "0.3", "--overlap", "0.6")),
            ("out.gpkg", ()),
            ("out.fgb", ()),
            ("out.parquet", ()),
        ],
    )
    def test_a_killed_run_goes_on_and_ends_byte_identical(
        self, bundle: Path, tall: Path, tmp_path: Path, name: str, options: tuple[str, ...]
    ) -> None:
        whole, out = tmp_path / "whole" / name, tmp_path / name
        assert run("segment", tall, "-o", whole, *options, "--quiet") == 0

        status, saved = interrupted(signal.SIGKILL, tall, out, *options, "--quiet")

        assert status == -signal.SIGKILL
        assert 10 <= saved < 100
        assert not out.exists()
        assert run("segment", tall, "-o", out, *options, "--resume", "--quiet") == 0
        assert out.read_bytes() == whole.read_bytes()
        assert not partial_folder(out).exists()

    def test_a_run_with_a_cascade_goes_on_too(
        self, tmp_path: Path, tall: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cascade = toy_cascade("blue", 0.2)
        bundle = exact_bundle(tmp_path / "cascaded", patch_size=32, cascade=cascade)
        monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
        monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
        pixels = TALL.copy()
        pixels[:, :100, 2] //= 8  # blue sees nothing there
        tall.write_bytes(tiff(np.moveaxis(pixels, 2, 0), photometric="rgb", **UTM))
        whole, out = tmp_path / "whole" / "out.tif", tmp_path / "out.tif"
        assert run("segment", tall, "-o", whole, "--quiet") == 0
        mask = mask_of(whole) == 1
        assert toy_mask(pixels)[:, :72].any()
        assert not mask[:, :72].any()  # blue alone decides the windows at 0, 24, 48 and 72
        np.testing.assert_array_equal(mask[:, 104:], toy_mask(pixels)[:, 104:])

        interrupted(signal.SIGKILL, tall, out, "--quiet")

        assert run("segment", tall, "-o", out, "--resume", "--quiet") == 0
        assert out.read_bytes() == whole.read_bytes()

    def test_a_run_that_goes_on_counts_the_patches_that_were_spared_before(
        self, tmp_path: Path, tall: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cascade = toy_cascade("blue", 0.2, share=0.5, red=0.99)
        bundle = exact_bundle(tmp_path / "cascaded", patch_size=32, cascade=cascade)
        monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
        monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
        whole, out = tmp_path / "whole" / "out.json", tmp_path / "out.json"
        assert run("segment", tall, "-o", whole, "--quiet") == 0
        interrupted(signal.SIGKILL, tall, out, "--quiet")
        assert run("segment", tall, "-o", out, "--resume", "--quiet") == 0
        assert out.read_bytes() == whole.read_bytes()
        counted = json.loads(out.read_text())["cascade"]
        assert re.fullmatch(r"blue decided \d+ of 1000 patches alone, \d+ with red", counted)

    def test_options_that_act_on_bands_may_change(
        self, bundle: Path, tall: Path, tmp_path: Path
    ) -> None:
        whole, out = tmp_path / "whole" / "out.tif", tmp_path / "out.tif"
        options = ("--min-area", "30", "--min-confidence", "0.6", "--bands", "mask,probability")
        assert run("segment", tall, "-o", whole, *options, "--quiet") == 0
        interrupted(signal.SIGKILL, tall, out, "--quiet")
        assert run("segment", tall, "-o", out, *options, "--resume", "--quiet") == 0
        assert out.read_bytes() == whole.read_bytes()

    def test_ctrl_c_says_how_to_go_on(self, bundle: Path, tall: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.tif"
        with started(tall, out, "--quiet") as process:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == "interrupted: run it again with --resume to go on\n"
        assert len(list(partial_folder(out).glob("*.band"))) >= 10
        assert not out.exists()

    def test_what_is_saved_is_not_computed_again(
        self, bundle: Path, tall: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.tif"
        interrupted(signal.SIGKILL, tall, out)
        folder = partial_folder(out)
        _, *others = sorted(folder.glob("*.band"))
        height = int(others[0].stem)
        other = np.float32(1) - toy_probability(TALL[:height]).astype(np.float32)
        kept = KeptBands(Folder(folder), ".")
        assert list(kept.save([Band(0, other, other >= THRESHOLD)]))
        assert run("segment", tall, "-o", out, "--resume", "--quiet") == 0
        mask = mask_of(out)
        np.testing.assert_array_equal(mask[:height] == 1, ~toy_mask(TALL[:height]))
        np.testing.assert_array_equal(mask[height:] == 1, toy_mask(TALL[height:]))

    def test_a_band_that_was_cut_short_is_computed_again(
        self, bundle: Path, tall: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.tif"
        interrupted(signal.SIGKILL, tall, out)
        bands = sorted(partial_folder(out).glob("*.band"))
        bands[4].write_bytes(bands[4].read_bytes()[:-1000])
        bands[8].unlink()
        assert run("segment", tall, "-o", out, "--resume", "--quiet") == 0
        np.testing.assert_array_equal(mask_of(out) == 1, toy_mask(TALL))

    def test_unfinished_work_is_neither_lost_nor_mixed_with_other(
        self, bundle: Path, tall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out.tif"
        interrupted(signal.SIGKILL, tall, out)
        assert run("segment", tall, "-o", out) == 2
        assert "holds an unfinished run: add --resume" in capsys.readouterr().err
        for options, words in (
            (["--overlap", "0.5"], "its overlap was 0.25 and is 0.5 now"),
            (["--cascade", "off"], "its cascade was on and is off now"),
            (["--bands", "mask,disagreement"], "its disagreement was False and is True now"),
            (["--rescale", "0,99"], "its rescale was None and is 0,99 now"),
            (["--sharpen", "0"], "its sharpen was None and is 0 now"),
        ):
            assert run("segment", tall, "-o", out, "--resume", "--quiet", *options) == 1
            assert words in capsys.readouterr().err
        os.utime(tall, (1, 1))
        assert run("segment", tall, "-o", out, "--resume", "--quiet") == 1
        assert "its input was of" in capsys.readouterr().err
        assert len(list(partial_folder(out).glob("*.band"))) >= 10

    def test_two_runs_never_write_one_output(
        self,
        bundle: Path,
        tall: Path,
        map_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A run that is stopped in its tracks, by a signal that leaves it alive, is the first."""
        out = tmp_path / "out.tif"
        with started(tall, out, "--quiet") as first:
            first.send_signal(signal.SIGSTOP)
            try:
                before = {path.name for path in partial_folder(out).iterdir()}
                assert run("segment", map_file, "-o", out, "--quiet") == 2
                assert f"another run is at work in {out}.partial" in capsys.readouterr().err
                assert run("segment", map_file, "-o", out, "--resume", "--quiet") == 1
                assert f"another run is at work in {out}.partial" in capsys.readouterr().err
                # Nor where the first began between the second's look and its start.
                monkeypatch.setattr("app.commandline.files.check_no_partial", lambda _: None)
                assert run("segment", map_file, "-o", out, "--quiet") == 1
                assert f"another run is at work in {out}.partial" in capsys.readouterr().err
                assert {path.name for path in partial_folder(out).iterdir()} == before
            finally:
                first.send_signal(signal.SIGCONT)
            assert first.wait(60) == 0
        np.testing.assert_array_equal(mask_of(out) == 1, toy_mask(TALL))
        assert not partial_folder(out).exists()

    def test_what_is_finished_is_left(
        self, bundle: Path, map_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out.tif"
        assert run("segment", map_file, "-o", out, "--resume", "--quiet") == 0
        before = out.stat().st_mtime_ns
        assert run("segment", map_file, "-o", out, "--resume", "--quiet") == 0
        assert "it was left as it is" in capsys.readouterr().err
        assert out.stat().st_mtime_ns == before
        os.utime(map_file)
        assert run("segment", map_file, "-o", out, "--resume", "--quiet") == 0
        assert out.stat().st_mtime_ns > before

    @pytest.mark.parametrize(
        ("flags", "status", "words"),
        [
            (["map.tif", "--resume"], 0, "it was left as it is"),
            (["none.tif", "--overwrite"], 1, "No such file"),
        ],
    )
    def test_models_are_loaded_for_work_alone(
        self,
        bundle: Path,
        map_file: Path,
        tmp_path: Path,
        flags: list[str],
        status: int,
        words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run("segment", map_file, "-o", tmp_path / "out.tif", "--quiet") == 0
        for model in bundle.glob("*.onnx"):
            model.unlink()
        assert run("segment", *flags, "-o", tmp_path / "out.tif", "--quiet") == status
        assert words in capsys.readouterr().err
        assert run("segment", map_file, "-o", tmp_path / "other.tif", "--quiet") == 2
        assert "restore it or export the bundle again" in capsys.readouterr().err
        assert not (tmp_path / "other.tif.partial").exists()

    def test_damage_that_shows_late_leaves_no_work(
        self, bundle: Path, tall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = tall.read_bytes()
        tall.write_bytes(data[: len(data) // 2])
        assert run("segment", tall, "-o", tmp_path / "out.tif", "--quiet") == 1
        assert "cut short" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {"bundle", "tall.tif"}
