"""The result formats: one table for HTTP, the command line and the documents."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ..errors import StorageFull
from ..imaging.image import RowSource
from ..segmentation.stream import SegmentedStream
from .choices import FormatName
from .coco import write_coco
from .geojson import check_coordinates, write_geojson
from .geotiff import check_grid, save_geotiff, write_geotiff
from .pictures import write_disagreement, write_mask, write_overlay, write_probability
from .rle import write_rle
from .styles import RASTER_QML
from .tables import check_table, save_flatgeobuf, save_geopackage, save_geoparquet


@dataclass(frozen=True)
class Format:
    """A result format: a writer of a stream, and what the writer needs.

    `write` writes to an open file; None if a library needs a path. `own_save` writes to a path;
    None if `write` is enough. `check` is called before any work: it raises `ImpossibleOutput` if
    the format is not possible for an image, else it returns notices for the client. `buildings`:
    the format shows each building or the members' disagreement, not the mask alone. `whole`: its
    writer holds the whole result, so memory grows with the image's height. `style`: the text of a
    QGIS style, for a file of the same name that ends in `.qml`.
    """

    name: FormatName
    media_type: str
    extension: str
    description: str
    write: Callable[[SegmentedStream, IO[bytes]], None] | None = None
    own_save: Callable[[SegmentedStream, Path], None] | None = None
    check: Callable[[RowSource], tuple[str, ...]] = lambda _: ()
    buildings: bool = False
    whole: bool = False
    style: str | None = None

    def encode(self, stream: SegmentedStream) -> bytes:
        """Return the result as bytes.

        Raises:
            ImpossibleOutput: a building lies where the image's reference system is not valid.
            StorageFull: the format is written to a temporary file first, and has no room there.
            Exception: any that the stream raises.
        """
        if self.write is None:
            try:
                with TemporaryDirectory() as folder:
                    path = Path(folder, f"result{self.extension}")
                    self.save(stream, path)
                    return path.read_bytes()
            except OSError as error:
                raise StorageFull(f"There is no room on disk to write {self.name}.") from error
        buffer = BytesIO()
        self.write(stream, buffer)
        return buffer.getvalue()

    def save(self, stream: SegmentedStream, path: Path) -> None:
        """Write the result to a file, which is not whole until this returns.

        Raises:
            OSError: no room, or no right to write there.
            As `encode`.
        """
        if self.own_save is not None:
            self.own_save(stream, path)
        else:
            assert self.write is not None, "one of the two"
            with path.open("wb") as file:
                self.write(stream, file)


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "png",
            "image/png",
            ".png",
            "8-bit single-channel mask: 255 is building, 0 is not",
            write_mask,
            whole=True,
        ),
        Format(
            "probability",
            "image/png",
            ".probability.png",
            "8-bit single-channel: 255 × probability, rounded; at least 255 × threshold where the "
            "mask is building, less elsewhere",
            write_probability,
            whole=True,
        ),
        Format(
            "disagreement",
            "image/png",
            ".disagreement.png",
            "8-bit single-channel: 255 × the largest less the smallest probability of the members, "
            "rounded",
            write_disagreement,
            buildings=True,
            whole=True,
        ),
        Format(
            "overlay",
            "image/png",
            ".overlay.png",
            "the upload with buildings tinted and outlined",
            write_overlay,
            whole=True,
        ),
        Format(
            "rle",
            "application/json",
            ".json",
            "the mask as run-length encoding, with its size and building share",
            write_rle,
            whole=True,
        ),
        Format(
            "coco",
            "application/json",
            ".coco.json",
            "COCO annotations, one per building, with compressed RLE, bbox, area and score",
            write_coco,
            buildings=True,
        ),
        Format(
            "geojson",
            "application/geo+json",
            ".geojson",
            "RFC 7946, one Feature per building in longitude and latitude, with `area_m2`, "
            "`confidence` and `agreement`; pixel coordinates without georeference",
            write_geojson,
            check=check_coordinates,
            buildings=True,
        ),
        Format(
            "geotiff",
            "image/tiff; application=geotiff; profile=cloud-optimized",
            ".tif",
            "a Cloud Optimized GeoTIFF on the upload's grid: 1 is building, 0 is not, 255 invalid",
            write_geotiff,
            save_geotiff,
            check_grid,
            style=RASTER_QML,
        ),
        Format(
            "gpkg",
            "application/geopackage+sqlite3",
            ".gpkg",
            "a GeoPackage in the image's own coordinate reference system",
            own_save=save_geopackage,
            check=check_table,
            buildings=True,
        ),
        Format(
            "flatgeobuf",
            "application/flatgeobuf",
            ".fgb",
            "a FlatGeobuf in the image's own coordinate reference system",
            own_save=save_flatgeobuf,
            check=check_table,
            buildings=True,
        ),
        Format(
            "geoparquet",
            "application/vnd.apache.parquet",
            ".parquet",
            "a GeoParquet file in the image's own coordinate reference system",
            own_save=save_geoparquet,
            check=check_table,
            buildings=True,
        ),
    )
}
"""By name. Where several have the media type that a client prefers, the first is chosen."""
