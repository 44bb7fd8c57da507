"""Many files as one map: `rooftrace bulk`, in this process."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pystac
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from app.commandline.bulk import find_files
from app.commandline.cli import main
from app.errors import InvalidOption
from app.outputs.partitions import quadkeys
from app.scale.sources import File
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM, geotiff, picture
from tests.s3 import KEYS, running_s3
from tests.serving import exact_bundle

SIDE, TILES = 40, 3
ALIKE = ("--resample", "off", "--quiet")


def plan() -> np.ndarray:
    """Draw blocks in which many a building lies across a border of tiles."""
    cells = np.random.default_rng(2).random((15, 15)) < 0.45
    return np.kron(cells, np.ones((8, 8))) > 0


def write_city(folder: Path, mask: np.ndarray) -> list[Path]:
    """Cut a map into tiles of `SIDE` pixels, each a GeoTIFF."""
    folder.mkdir(parents=True)
    paths = []
    for row in range(TILES):
        for col in range(TILES):
            rows, cols = (slice(n * SIDE, (n + 1) * SIDE) for n in (row, col))
            place = NORTH_UP @ Affine.translation(cols.start, rows.start)
            paths.append(folder / f"t{row}{col}.tif")
            paths[-1].write_bytes(geotiff(picture(mask[rows, cols]), transform=place))
    return paths


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("bundles") / "exact", patch_size=32)


@pytest.fixture(autouse=True)
def _environment(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
    monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
    monkeypatch.setenv("ROOFTRACE_BACKEND", "onnxruntime")


@pytest.fixture
def city(tmp_path: Path) -> list[Path]:
    return write_city(tmp_path / "city", plan())


def bulk(*arguments: str | Path) -> int:
    return main(["bulk", *map(str, arguments)])


def buildings(dest: Path) -> Any:
    return pyarrow.dataset.dataset(dest / "buildings", partitioning="hive").to_table().to_pylist()


def rows(dest: Path) -> dict[str, dict[str, Any]]:
    """Read the row of each file, by its name without folders."""
    table = pyarrow.parquet.read_table(dest / "files.parquet").to_pylist()
    return {Path(row["file"]).name: row for row in table}


def mask_of(dest: Path) -> np.ndarray:
    """Put the masks of the tiles together."""
    whole = np.zeros((TILES * SIDE, TILES * SIDE), np.uint8)
    for path in (dest / "masks").glob("*.tif"):
        row, col = (int(digit) * SIDE for digit in path.name[1:3])
        with rasterio.open(path) as file:
            whole[row : row + SIDE, col : col + SIDE] = file.read(1)
    return whole


def bytes_of(dest: Path) -> dict[str, bytes]:
    """Read what does not tell when it was made."""
    files = [*dest.glob("masks/*"), *dest.glob("buildings/**/*.parquet")]
    return {str(path.relative_to(dest)): path.read_bytes() for path in files}


def test_tiles_give_the_buildings_of_the_whole(city: list[Path], tmp_path: Path) -> None:
    (tmp_path / "whole.tif").write_bytes(geotiff(picture(plan())))
    assert bulk("city", "-o", "out", *ALIKE) == 0
    assert bulk("whole.tif", "-o", "one", *ALIKE) == 0
    ours, whole = buildings(Path("out")), buildings(Path("one"))
    assert len(ours) == len(whole) > 20
    assert {1, 2, 3, 4} == {len(row["images"]) for row in ours}

    def figures(rows: list[dict[str, Any]]) -> list[tuple[float, ...]]:
        shapes = shapely.from_wkb([row["geometry"] for row in rows])
        assert shapely.is_valid(shapes).all()
        middles = [shapely.centroid(shape) for shape in shapes]
        places = [(round(middle.x, 8), round(middle.y, 8)) for middle in middles]
        return sorted((*place, row["area_m2"]) for place, row in zip(places, rows, strict=True))

    np.testing.assert_allclose(figures(ours), figures(whole), rtol=0, atol=0.011)
    np.testing.assert_array_equal(mask_of(Path("out")) == 1, plan())


def test_a_tile_alone_is_what_segment_makes_of_it(city: list[Path]) -> None:
    assert bulk(city[4], "-o", "out", *ALIKE) == 0
    assert main(["segment", str(city[4]), "-o", "alone.tif", "--resample", "off", "--quiet"]) == 0
    [mask] = Path("out/masks").glob("*.tif")
    assert mask.read_bytes() == Path("alone.tif").read_bytes()


def test_minimums_judge_a_building_whole(city: list[Path], tmp_path: Path) -> None:
    """Parts that are too small alone stay, if together they are not; and the masks agree."""
    (tmp_path / "whole.tif").write_bytes(geotiff(picture(plan())))
    assert bulk("city", "-o", "out", "--min-area", "40", *ALIKE) == 0
    command = ["segment", "whole.tif", "-o", "whole.mask.tif", "--min-area", "40", *ALIKE]
    assert main(command) == 0
    with rasterio.open("whole.mask.tif") as file:
        expected = file.read(1)
    assert 0 < expected.sum() < plan().sum()
    np.testing.assert_array_equal(mask_of(Path("out")), expected)
    for path in Path("out/masks").glob("*.tif"):
        with rasterio.open(path) as file:  # what shows the imagery beneath agrees
            np.testing.assert_array_equal(file.read(2) > 0, file.read(1) == 1)
    assert min(row["area_m2"] for row in buildings(Path("out"))) >= 39.9


def test_masks_stay_cogs_when_parts_are_held(city: list[Path]) -> None:
    from rio_cogeo.cogeo import cog_validate

    assert bulk("city", "-o", "out", "--min-area", "60", *ALIKE) == 0
    erased = list(Path("out/.work").glob("*/erased.json"))
    assert erased
    for path in erased:
        valid, errors, _ = cog_validate(f"out/masks/{path.parent.name}.tif")
        assert valid, errors
    before = bytes_of(Path("out"))
    assert bulk("city", "-o", "out", "--min-area", "60", *ALIKE) == 0
    assert bytes_of(Path("out")) == before


def test_a_run_goes_on_where_it_was(
    city: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bulk("city", "-o", "whole", *ALIKE) == 0
    assert bulk("city", "-o", "out", "--resample", "off") == 0
    for path in list(Path("out/.work").glob("t0*"))[:2]:
        (path / "record.json").unlink()  # as if it had been interrupted there
    capsys.readouterr()
    assert bulk("city", "-o", "out", "--resample", "off") == 0
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("2 files segmented, 7 already there, 0 failed, ")
    assert "; the map has 9 files, " in told
    assert bytes_of(Path("out")) == bytes_of(Path("whole"))

    time.sleep(0.01)
    os.utime(city[0])  # it and its three neighbours are seen anew
    assert bulk("city", "-o", "out", "--resample", "off") == 0
    assert "4 files segmented, 5 already there, 0 failed, " in capsys.readouterr().err


def test_a_tile_that_comes_later_joins_what_is_there(city: list[Path], tmp_path: Path) -> None:
    assert bulk("city", "-o", "whole", "--min-area", "40", *ALIKE) == 0
    city[4].rename(tmp_path / "later.tif")
    assert bulk("city", "-o", "out", "--min-area", "40", *ALIKE) == 0
    (tmp_path / "later.tif").rename(city[4])
    assert bulk("city", "-o", "out", "--min-area", "40", *ALIKE) == 0
    assert bytes_of(Path("out")) == bytes_of(Path("whole"))


def test_one_bad_file_costs_no_other(
    city: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "city" / "nowhere.png").write_bytes(geotiff(picture(plan()), crs=None)[:0] + b"x")
    damaged = city[3].read_bytes()
    city[3].write_bytes(damaged[: len(damaged) - 2000])
    assert bulk("city", "-o", "out", "--resample", "off") == 1
    told = capsys.readouterr().err
    assert "error: city/t10.tif: " in told
    assert "2 failed" in told
    found = rows(Path("out"))
    assert len(found) == TILES**2 + 1
    assert {name for name, row in found.items() if row["status"] == "failed"} == {
        "t10.tif",
        "nowhere.png",
    }
    assert found["t10.tif"]["error"]
    items = list(pystac.read_file("out/collection.json").get_items())  # type: ignore[attr-defined]
    assert len(items) == TILES**2 - 1

    city[3].write_bytes(damaged)
    assert bulk(*city, "-o", "out", *ALIKE) == 0
    assert {row["status"] for row in rows(Path("out")).values()} == {"segmented"}


def test_a_tile_of_which_no_pixel_counts_is_told(
    city: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = np.zeros((3, SIDE, SIDE), np.uint8)
    place = {"crs": UTM, "transform": NORTH_UP}
    city[0].write_bytes(tiff(nothing, nodata=0, photometric="rgb", **place))
    shutil.copy(city[4], "twice.tif")
    assert bulk(city[0], city[4], "twice.tif", "-o", "out", *ALIKE) == 0
    counted = {name for name, row in rows(Path("out")).items() if not row["notices"]}
    assert len(counted) == 1
    assert counted < {"t11.tif", "twice.tif"}
    assert f"notice: {city[0]}: No pixel of the image counts" in capsys.readouterr().err


def test_an_image_of_no_place_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "nowhere.tif").write_bytes(
        geotiff(picture(plan()), crs=None, transform=Affine(1, 0, 0, 0, 1, 0))
    )
    assert bulk("nowhere.tif", "-o", "out", *ALIKE) == 1
    assert "needs the place of each" in rows(Path("out"))["nowhere.tif"]["error"]


def test_the_collection_leads_to_all_there_is(city: list[Path]) -> None:
    assert bulk("city", "-o", "out", *ALIKE) == 0
    collection = pystac.read_file("out/collection.json")
    assert isinstance(collection, pystac.Collection)
    items = list(collection.get_items())
    assert len(items) == TILES**2
    for item in items:
        href = item.assets["mask"].get_absolute_href()
        assert href is not None
        with rasterio.open(href) as file:
            assert list(file.shape) == item.properties["proj:shape"]
            assert item.properties["proj:code"] == "EPSG:32633"
            lon, lat = file.lnglat()
        assert shapely.geometry.shape(item.geometry).contains(shapely.Point(lon, lat))
        assert item.bbox is not None
        west, south, east, north = collection.extent.spatial.bboxes[0]
        assert west <= item.bbox[0] <= item.bbox[2] <= east
        assert south <= item.bbox[1] <= item.bbox[3] <= north
    for link in json.loads(Path("out/collection.json").read_text())["links"]:
        assert link["href"].startswith("./")
    assert Path("out", collection.assets["buildings"].href).is_dir()


def test_partitions_are_geoparquet_by_quadkey(city: list[Path]) -> None:
    assert bulk("city", "-o", "out", "--zoom", "18", *ALIKE) == 0
    files = list(Path("out/buildings").glob("quadkey=*/*.parquet"))
    assert len(files) > 1, "tiles of about 150 m"
    tms = morecantile.tms.get("WebMercatorQuad")
    for path in files:
        geo = json.loads(pyarrow.parquet.read_schema(path).metadata[b"geo"])
        assert geo["version"] == "1.1.0"
        assert geo["columns"]["geometry"]["encoding"] == "WKB"
        assert "crs" not in geo["columns"]["geometry"]  # longitude and latitude, by definition
        for row in pyarrow.parquet.ParquetFile(path).read().to_pylist():
            shape = shapely.from_wkb(row["geometry"])
            box = row["bbox"]
            assert (box["xmin"], box["ymin"], box["xmax"], box["ymax"]) == shape.bounds
            key = path.parent.name.removeprefix("quadkey=")
            tile = shapely.box(*tms.bounds(tms.quadkey_to_tile(key)))
            assert tile.buffer(1e-9).intersects(shape)


def test_quadkeys_are_those_of_morecantile() -> None:
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-180, 180, 50), rng.uniform(-85, 85, 50)
    tms = morecantile.tms.get("WebMercatorQuad")
    expected = [tms.quadkey(tms.tile(*place, 15)) for place in zip(lon, lat, strict=True)]
    assert quadkeys(lon, lat, 15) == expected
    assert quadkeys(np.array([0.0]), np.array([-90.0]), 2) == ["32"]


class TestRefusals:
    def test_a_folder_of_something_else(
        self, city: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bulk("city", "-o", "city", *ALIKE) == 2
        assert "holds something else" in capsys.readouterr().err
        assert bulk("city", "-o", city[0], *ALIKE) == 2
        assert "is a file" in capsys.readouterr().err

    def test_another_run(self, city: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
        import fcntl

        Path("out/.work").mkdir(parents=True)
        with Path("out/.work/lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert bulk("city", "-o", "out", *ALIKE) == 2
        assert "another run is at work" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--workers", "2"], "those of --engine ray"),
            (["--engine", "ray", "--workers", "0"], "workers must be at least 1, got 0"),
            (["--zoom", "19"], "zoom must be from 1 to 18, got 19"),
            (["--bands", "mask"], "--bands is no option"),
        ],
    )
    def test_flags(self, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            status = bulk("x.tif", "-o", "out", *flags)
        except SystemExit as refused:
            status = refused.code  # type: ignore[assignment]
        assert status == 2
        assert words in capsys.readouterr().err


class TestCatalogues:
    def items(self, folder: Path, paths: list[Path], **assets: dict[str, Any]) -> list[pystac.Item]:
        from datetime import UTC, datetime

        items = []
        for path in paths:
            item = pystac.Item(path.stem, None, None, datetime(2024, 6, 7, tzinfo=UTC), {})
            item.add_asset("pixels", pystac.Asset(f"../{path.name}", roles=["visual"]))
            item.add_asset("preview", pystac.Asset("../p.png", roles=["thumbnail"]))
            item.set_self_href(str(folder / "items" / f"{path.stem}.json"))
            items.append(item)
        return items

    def test_a_catalogue_names_the_images(self, city: list[Path], tmp_path: Path) -> None:
        catalogue = pystac.Catalog("city", "a city")
        catalogue.set_self_href(str(tmp_path / "city" / "catalog.json"))
        for item in self.items(tmp_path / "city", city[:2]):
            catalogue.add_item(item)
            item.set_self_href(str(tmp_path / "city" / "items" / f"{item.id}.json"))
        catalogue.save(pystac.CatalogType.SELF_CONTAINED)
        assert bulk("city/catalog.json", "-o", "out", *ALIKE) == 0
        collection = pystac.read_file("out/collection.json")
        taken = {item.datetime.isoformat() for item in collection.get_items()}  # type: ignore[attr-defined]
        assert taken == {"2024-06-07T00:00:00+00:00"}
        with pytest.raises(InvalidOption, match="no asset nir"):
            find_files(["city/catalog.json"], "out", "nir")

    def test_what_a_search_gives(self, city: list[Path], tmp_path: Path) -> None:
        found = pystac.ItemCollection(self.items(tmp_path / "city", city[:2]))
        found.save_object(str(tmp_path / "city" / "found.json"))
        files = find_files([str(tmp_path / "city" / "found.json")], "out", "pixels")
        assert [Path(file.path).name for file in files] == ["t00.tif", "t01.tif"]

    @pytest.mark.parametrize("text", ["{}", "[1]", '{"type": "Feature"}', "nothing"])
    def test_what_is_none(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InvalidOption, match="STAC catalogue"):
            find_files([str(tmp_path / "x.json")], "out", None)


def test_a_query_is_no_pattern() -> None:
    [file] = find_files(["https://host/a.tif?key=v"], "out", None)
    assert file.path == "/vsicurl/https://host/a.tif?key=v"


def test_ids_are_legible_and_of_one_file() -> None:
    one, other = File("a/Straße 1.tif", "", False), File("b/Straße 1.tif", "", False)
    assert one.id.startswith("Stra-e-1-")
    assert one.id != other.id


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real S3 server."""
    with running_s3(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def bucket(s3: str, city: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The city in a bucket, and the environment in which GDAL finds it."""
    import boto3

    for name, value in {
        **KEYS,
        "AWS_S3_ENDPOINT": s3.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="city")
    for path in city:
        folder = "north" if path.name < "t1" else "south"
        client.put_object(Bucket="city", Key=f"2026/{folder}/{path.name}", Body=path.read_bytes())
    client.put_object(Bucket="city", Key="2026/readme.txt", Body=b"text")
    yield "s3://city/2026"
    for listed in client.list_objects_v2(Bucket="city")["Contents"]:
        client.delete_object(Bucket="city", Key=listed["Key"])
    client.delete_bucket(Bucket="city")


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: GDAL registers its drivers once in each."""
    command = [sys.executable, "-m", "app", "bulk", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_bucket_is_read_as_a_folder_is(bucket: str, city: list[Path]) -> None:
    assert bulk("city", "-o", "out", *ALIKE) == 0
    done = in_a_process(f"{bucket}/", f"{bucket}/t99.tif", "-o", "far", *ALIKE)
    assert done.returncode == 1, done.stderr
    left_out, error, *_ = done.stderr.splitlines()
    assert left_out.startswith("notice: left out /vsis3/city/2026/readme.txt: images end in .png")
    assert error.startswith("error: s3://city/2026/t99.tif: GDAL can't open it")
    np.testing.assert_array_equal(mask_of(Path("far")), mask_of(Path("out")))
    assert len(buildings(Path("far"))) == len(buildings(Path("out")))
    states = [row["status"] for row in rows(Path("far")).values()]
    assert sorted(states) == ["failed", *["segmented"] * TILES**2]

    def names(pattern: str) -> list[str]:
        return [Path(file.path).name for file in find_files([pattern], "out", None)]

    assert names(f"{bucket}/north/*.tif") == ["t00.tif", "t01.tif", "t02.tif"]
    assert len(names(f"{bucket}/**/*.tif")) == TILES**2
    assert names(f"{bucket}/*/t1?.tif") == ["t10.tif", "t11.tif", "t12.tif"]
    with pytest.raises(InvalidOption, match=r"no image that fits \*.tif"):
        names(f"{bucket}/*.tif")
    with pytest.raises(InvalidOption, match="can't be listed"):
        names("s3://elsewhere/")
