"""Buildings as a table of a GIS, in the image's own coordinate reference system.

GeoPackage and FlatGeobuf are GDAL's, by way of pyogrio; GeoParquet is a Parquet file with one
member of metadata. Sources: OGC 12-128 (GeoPackage), the GeoParquet specification 1.1.

pyogrio and pyarrow are imported when they are needed: only the extra `geo` installs them.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyproj
import shapely

from ..errors import ImpossibleOutput, InvalidOption
from ..extras import check_extra
from ..imaging.image import RowSource
from ..segmentation.stream import SegmentedStream
from .footprints import Footprint, check_place, footprints
from .provenance import provenance
from .styles import POLYGONS_QML

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 4096
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
    if image.georeference is None:
        raise ImpossibleOutput(
            "GeoPackage, FlatGeobuf and GeoParquet need a georeferenced image, and this image has "
            "no georeference. Give a GeoTIFF, or ask for geojson, which can hold pixel coordinates."
        )
    check_place(image)
    return ()


def save_geopackage(stream: SegmentedStream, path: Path) -> None:
    """Write a GeoPackage with one layer, `buildings`, and the style that QGIS draws it in.

    Raises:
        OSError: no room, or no right to write there.
        Exception: whatever reading the stream raises.
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

    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": pyproj.CRS.from_user_input(_crs(stream)).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    schema = _schema().with_metadata(
        {"geo": json.dumps(geo), "rooftrace": json.dumps(provenance(stream.plan))}
    )
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
            pa.RecordBatchReader.from_batches(_schema(), batches()),
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


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"}),
            pa.field("area_m2", pa.float64()),
            pa.field("confidence", pa.float64()),
            pa.field("agreement", pa.float64()),
        ]
    )


def _batches(stream: SegmentedStream) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    found = footprints(stream)
    while batch := list(islice(found, _BATCH)):
        columns = zip(*map(_row, batch), strict=True)
        yield pa.record_batch([pa.array(column) for column in columns], schema=_schema())


def _row(footprint: Footprint) -> tuple[bytes, float, float, float]:
    polygon = shapely.orient_polygons(footprint.on_map)
    return (
        shapely.to_wkb(polygon),
        round(footprint.area, 2),
        round(footprint.confidence, 4),
        round(footprint.agreement, 4),
    )
