"""Buildings of many images as one table: GeoParquet in longitude and latitude, cut by quadkey.

A quadkey names a map tile, and its first characters name the tiles that hold it. So a part of the
earth lies in folders whose names begin alike. `bbox` lets readers skip row groups.
Sources: the GeoParquet specification 1.1, Hive's partitioned folders, Bing Maps Tile System.

pyarrow is imported when it is needed: only the extra `geo` installs it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from .footprints import Footprint
from .tables import BATCH, building_columns, buildings_schema, parquet_metadata

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "quadkey"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NORTH = 85.05
"""Degrees of latitude where the web's maps end."""


def quadkeys(lon: NDArray[np.float64], lat: NDArray[np.float64], zoom: int) -> list[str]:
    """Return the quadkey of the map tile in which each place lies: the nearest, beyond the tiles.

    Source: Bing Maps Tile System.
    """
    sides = 2**zoom
    north = np.radians(np.clip(lat, -_NORTH, _NORTH))
    x = ((lon + 180) / 360 * sides).astype(np.int64).clip(0, sides - 1)
    y = ((1 - np.arcsinh(np.tan(north)) / np.pi) / 2 * sides).astype(np.int64).clip(0, sides - 1)
    digits = np.stack([(x >> bit & 1) + 2 * (y >> bit & 1) for bit in range(zoom)][::-1], axis=-1)
    return ["".join(map(str, row)) for row in digits.tolist()]


def save_buildings(path: Path, buildings: Iterable[tuple[Footprint, list[str]]], zoom: int) -> int:
    """Write buildings, and the names of the images that show each, to one Parquet file.

    Return how many there are.

    Raises:
        OSError: no room, or no right to write there.
        Exception: any that `buildings` raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, count = iter(buildings), 0
    with pq.ParquetWriter(path, _schema(), compression="zstd") as file:
        while batch := list(islice(rows, BATCH)):
            found, names = zip(*batch, strict=True)
            polygons = shapely.orient_polygons([footprint.on_earth for footprint in found])
            middle = shapely.get_coordinates(shapely.point_on_surface(polygons))
            columns = [
                *building_columns(found, polygons),
                pa.StructArray.from_arrays(map(pa.array, shapely.bounds(polygons).T), _SIDES),
                pa.array(names),
                pa.array(quadkeys(middle[:, 0], middle[:, 1], zoom)),
            ]
            file.write_batch(pa.record_batch(columns, schema=_schema()))
            count += len(batch)
    return count


def save_partitions(folder: Path, tables: Iterable[Path], described: dict[str, object]) -> None:
    """Write the buildings of many files of `save_buildings` to folders by their quadkeys.

    `described` is their provenance, for each file's metadata.

    Raises:
        OSError: no room, or no right to write there.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    types = ["Polygon", "MultiPolygon"]
    covering = {"bbox": {side: ["bbox", side] for side in _SIDES}}
    # Without `crs`: longitude and latitude on WGS 84.
    metadata = parquet_metadata(described, geometry_types=types, covering=covering)
    schema = _schema().with_metadata(metadata)

    def batches() -> Iterator["pa.RecordBatch"]:
        for table in tables:
            with pq.ParquetFile(table) as file:
                for batch in file.iter_batches(BATCH):
                    yield batch.replace_schema_metadata(schema.metadata)

    key = pa.schema([schema.field(KEY)])
    ds.write_dataset(
        pa.RecordBatchReader.from_batches(schema, batches()),
        folder,
        format=ds.ParquetFileFormat(),
        file_options=ds.ParquetFileFormat().make_write_options(compression="zstd"),
        partitioning=ds.partitioning(key, flavor="hive"),
        basename_template="buildings-{i}.parquet",
        use_threads=False,  # equal inputs are to give equal files
        max_open_files=256,
    )


def save_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write plain rows, all with the same members, to one Parquet file.

    Raises:
        OSError: no room, or no right to write there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return buildings_schema(
        bbox=pa.struct(dict.fromkeys(_SIDES, pa.float64())),
        images=pa.list_(pa.string()),
        quadkey=pa.string(),
    )
