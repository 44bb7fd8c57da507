"""Buildings as a table of a GIS, in the image's own coordinate reference system.

GeoPackage and FlatGeobuf are GDAL's, by way of pyogrio; GeoParquet is a Parquet file with one
member of metadata. Sources: OGC 12-128 (GeoPackage), the GeoParquet specification 1.1.

pyogrio and pyarrow are imported when they are needed: only the extra `geo` installs them.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from ..errors import InvalidOption
from ..extras import check_extra
from ..imaging.georeference import GeoReference
from ..imaging.image import RowSource
from ..segmentation.stream import SegmentedStream
from .footprints import Footprint, check_place, footprints
from .provenance import provenance
from .styles import POLYGONS_QML

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 4096
"""Buildings that are written at a time."""
_LAYER = "buildings"
# A GeoPackage says when it was last changed; equal inputs are to give equal files.
_DATE = "2000-01-01T00:00:00.000Z"


def check_table(image: RowSource) -> tuple[str, ...]:
    """Check that an image has a place on a map, and that the libraries are there.

    Raises:
        ImpossibleOutput: the image has no place.
        InvalidOption: the extra `geo` is not installed.
    """
    check_extra(
        "A GeoPackage, FlatGeobuf or GeoParquet, unlike geojson,",
        "geo",
        "pyarrow",
        "pyogrio",
        error=InvalidOption,
    )
    GeoReference.required(image.georeference)
    check_place(image)
    return ()


def save_geopackage(stream: SegmentedStream, path: Path) -> None:
    """Write a GeoPackage with one layer, `buildings`, and the style that QGIS draws it in.

    Raises:
        OSError: no room, or no right to write there.
        Exception: any that the stream raises.
    """
    described = json.dumps(provenance(stream.plan))
    _save_by_gdal(stream, path, "GPKG", layer_metadata={"rooftrace": described})
    _add_style(path)


def save_flatgeobuf(stream: SegmentedStream, path: Path) -> None:
    """Write a FlatGeobuf, with a spatial index.

    Raises:
        As `save_geopackage`.
    """
    described = json.dumps(provenance(stream.plan))
    _save_by_gdal(stream, path, "FlatGeobuf", layer_options={"DESCRIPTION": described})


def save_geoparquet(stream: SegmentedStream, path: Path) -> None:
    """Write a GeoParquet file, as many row groups as batches come.

    Raises:
        As `save_geopackage`.
    """
    import pyarrow.parquet as pq

    crs = pyproj.CRS.from_user_input(_crs(stream)).to_json_dict()
    metadata = parquet_metadata(provenance(stream.plan), geometry_types=["Polygon"], crs=crs)
    schema = buildings_schema().with_metadata(metadata)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for batch in _batches(stream):
            file.write_batch(batch.replace_schema_metadata(schema.metadata))


def _save_by_gdal(
    stream: SegmentedStream, path: Path, driver: str, **options: dict[str, str]
) -> None:
    import pyarrow as pa
    import pyogrio

    raised: list[BaseException] = []

    def batches() -> Iterator["pa.RecordBatch"]:
        # Arrow's stream would turn any error into one of its own, without its class.
        try:
            yield from _batches(stream)
        except BaseException as error:
            raised.append(error)
            raise

    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _DATE})
    try:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(buildings_schema(), batches()),
            path,
            layer=_LAYER,
            driver=driver,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=_crs(stream),
            **options,
        )
    except Exception as error:
        if raised:
            raise raised[0] from None
        raise OSError(f"{path} can't be written: {error}") from error


def _add_style(path: Path) -> None:
    """Add the table in which QGIS looks for a layer's style.

    Source: QGIS, `QgsOgrProviderUtils`; the names of its columns are the table's definition.
    """
    import pyarrow as pa
    import pyogrio

    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": _LAYER,
        "f_geometry_column": "geom",  # what GDAL calls it in a GeoPackage
        "styleName": "rooftrace",
        "styleQML": POLYGONS_QML,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "Buildings, with the imagery shown beneath",
        "owner": "",
        "ui": "",
        "update_time": datetime.fromisoformat(_DATE),
    }
    table = pa.table({name: [value] for name, value in row.items()})
    try:
        pyogrio.write_arrow(table, path, layer="layer_styles", driver="GPKG", append=True)
    except Exception as error:
        raise OSError(f"{path} can't be written: {error}") from error


def _crs(stream: SegmentedStream) -> str:
    georeference = stream.image.georeference
    assert georeference is not None, "check_table comes first"
    assert georeference.crs is not None
    return georeference.crs


def _batches(stream: SegmentedStream) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    found = footprints(stream)
    while batch := list(islice(found, BATCH)):
        polygons = shapely.orient_polygons([footprint.on_map for footprint in batch])
        yield pa.record_batch(building_columns(batch, polygons), schema=buildings_schema())


def buildings_schema(**more: "pa.DataType") -> "pa.Schema":
    """Return the columns that each table of buildings has, and more."""
    import pyarrow as pa

    metadata = {"ARROW:extension:name": "geoarrow.wkb"}
    figures = dict.fromkeys(("area_m2", "confidence", "agreement"), pa.float64())
    geometry = pa.field("geometry", pa.binary(), metadata=metadata)
    return pa.schema([geometry, *figures.items(), *more.items()])


def building_columns(
    buildings: Sequence[Footprint], polygons: NDArray[np.object_]
) -> list["pa.Array"]:
    """Return the columns of `buildings_schema` of some buildings, drawn as `polygons`."""
    import pyarrow as pa

    return [
        pa.array(shapely.to_wkb(polygons)),
        pa.array([round(building.area, 2) for building in buildings]),
        pa.array([round(building.confidence, 4) for building in buildings]),
        pa.array([round(building.agreement, 4) for building in buildings]),
    ]


def parquet_metadata(described: dict[str, object], **geometry: object) -> dict[str, str]:
    """Return the metadata of a GeoParquet file; `described` is the buildings' provenance."""
    fixed = {"encoding": "WKB", "orientation": "counterclockwise", "edges": "planar"}
    columns = {"geometry": {**fixed, **geometry}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": columns}
    return {"geo": json.dumps(geo), "rooftrace": json.dumps(described)}
