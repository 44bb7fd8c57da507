"""GeoPackage, FlatGeobuf and GeoParquet, as other readers than ours read them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely
from numpy.typing import NDArray
from rasterio import features
from rasterio.transform import Affine

from app.errors import DeadlineExceeded, ImpossibleOutput, InvalidOption
from app.outputs.formats import FORMATS
from app.segmentation.segmenter import Segmenter
from tests.maps import (
    BUILDINGS,
    NORTH_UP,
    UTM,
    encode,
    geotiff,
    picture,
    plan,
    polygons,
    stream_of,
)
from tests.serving import encoded

MASK = plan()
TABLES = ["gpkg", "flatgeobuf", "geoparquet"]
TURNED = Affine(0.3, 0.4, 5e5, 0.4, -0.3, 4e6)


def write(segmenter: Segmenter, data: bytes, format: str, path: Path) -> Path:
    FORMATS[format].save(stream_of(segmenter, data, format), path)
    return path


def read(path: Path, format: str) -> tuple[pyproj.CRS, list[Any], dict[str, NDArray[Any]], str]:
    """Return the reference system, the polygons, the columns, and the provenance."""
    if format == "geoparquet":
        table = pq.read_table(path)
        said = json.loads(table.schema.metadata[b"geo"])
        assert said["version"] == "1.1.0"
        column = said["columns"][said["primary_column"]]
        assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
        columns = {name: table[name].to_numpy() for name in table.column_names}
        shapes = shapely.from_wkb(columns.pop("geometry"))
        provenance = table.schema.metadata[b"rooftrace"].decode()
        return pyproj.CRS.from_json_dict(column["crs"]), list(shapes), columns, provenance
    # A GeoPackage has a table of styles too.
    layer = "buildings" if format == "gpkg" else None
    meta, _, wkb, values = pyogrio.raw.read(path, layer=layer)
    said = pyogrio.read_info(path, layer=layer)["layer_metadata"]
    provenance = said["rooftrace" if format == "gpkg" else "DESCRIPTION"]
    columns = dict(zip(meta["fields"], values, strict=True))
    return pyproj.CRS(meta["crs"]), list(shapely.from_wkb(wkb)), columns, provenance


@pytest.mark.parametrize("format", TABLES)
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP),
        (UTM, TURNED),
        ("EPSG:4326", Affine(4e-6, 0, 10, 0, -3e-6, 60)),
        ("EPSG:2263", Affine(2, 0, 980_000, 0, -2, 200_000)),
    ],
)
def test_polygons_lie_on_the_mask_in_the_images_own_system(
    small_toy: Segmenter, tmp_path: Path, format: str, crs: str, transform: Affine
) -> None:
    data = geotiff(picture(MASK), crs, transform)
    path = write(small_toy, data, format, tmp_path / f"out{FORMATS[format].extension}")
    found, shapes, columns, provenance = read(path, format)
    assert found.equals(crs)
    assert all(shape.is_valid for shape in shapes)
    back = features.rasterize([(s, 1) for s in shapes], MASK.shape, transform=transform)
    np.testing.assert_array_equal(back.astype(bool), MASK)
    collection = json.loads(encode(small_toy, data, "geojson"))
    assert len(polygons(collection)) == len(shapes) == BUILDINGS
    # FlatGeobuf puts them in the order of its index.
    for name in ("area_m2", "confidence", "agreement"):
        expected = sorted(f["properties"][name] for f in collection["features"])
        assert sorted(columns.pop(name)) == pytest.approx(expected, rel=0.005)
    assert not columns
    assert json.loads(provenance) == collection["provenance"]


@pytest.mark.parametrize("format", TABLES)
class TestFiles:
    def test_equal_inputs_give_equal_files(
        self, small_toy: Segmenter, tmp_path: Path, format: str
    ) -> None:
        data, extension = geotiff(picture(MASK)), FORMATS[format].extension
        once, twice = (
            write(small_toy, data, format, tmp_path / f"{name}{extension}") for name in "ab"
        )
        assert once.read_bytes() == twice.read_bytes()

    def test_a_file_that_is_there_is_replaced(
        self, small_toy: Segmenter, tmp_path: Path, format: str
    ) -> None:
        path = tmp_path / f"out{FORMATS[format].extension}"
        write(small_toy, geotiff(picture(MASK)), format, path)
        once = MASK.copy()
        once[30:] = False
        write(small_toy, geotiff(picture(once)), format, path)
        assert len(read(path, format)[1]) == 3

    def test_no_building_is_a_table_too(
        self, small_toy: Segmenter, tmp_path: Path, format: str
    ) -> None:
        black = geotiff(picture(np.zeros_like(MASK)))
        path = write(small_toy, black, format, tmp_path / f"out{FORMATS[format].extension}")
        crs, shapes, _, _ = read(path, format)
        assert crs.equals(UTM)
        assert shapes == []

    def test_what_stops_the_work_comes_through(
        self, small_toy: Segmenter, tmp_path: Path, format: str
    ) -> None:
        def stop() -> None:
            raise DeadlineExceeded("enough")

        stream = stream_of(small_toy, geotiff(picture(MASK)), format, stop)
        with pytest.raises(DeadlineExceeded, match="enough"):
            FORMATS[format].save(stream, tmp_path / f"out{FORMATS[format].extension}")

    def test_a_folder_that_is_not_there_is_an_error_of_the_system(
        self, small_toy: Segmenter, tmp_path: Path, format: str
    ) -> None:
        with pytest.raises(OSError, match="nowhere"):
            write(small_toy, geotiff(picture(MASK)), format, tmp_path / "nowhere/out.gpkg")

    def test_an_image_of_no_place_is_refused(self, small_toy: Segmenter, format: str) -> None:
        with pytest.raises(ImpossibleOutput, match="no georeference"):
            stream_of(small_toy, encoded(picture(MASK)), format)
        with pytest.raises(ImpossibleOutput, match="names no coordinate reference system"):
            stream_of(small_toy, geotiff(picture(MASK), None), format)

    def test_without_the_extra_its_name_is_told(
        self, small_toy: Segmenter, format: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "pyogrio" else find(name)
        )
        with pytest.raises(InvalidOption, match="needs pyogrio, the extra `geo`: pip install"):
            stream_of(small_toy, geotiff(picture(MASK)), format)
