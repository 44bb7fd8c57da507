"""The result formats: one table for HTTP, the command line and the documents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from pydantic import BaseModel, Field

from app.imaging.encode import mask_png, overlay_png, probability_png
from app.imaging.georeference import Gsd
from app.imaging.image import Image, RowSource
from app.outputs.coco import write_coco
from app.outputs.findings import Findings, OutputOptions, Provenance, building_area
from app.outputs.geojson import check_coordinates, write_geojson
from app.outputs.geotiff import check_grid, encode_geotiff, write_geotiff
from app.outputs.rle import PixelOrder, encode_rle
from app.outputs.tables import (
    check_table,
    write_flatgeobuf,
    write_geopackage,
    write_geoparquet,
)
from app.segmentation.components import count_components
from app.segmentation.segmenter import Checkpoint, keep_going
from app.segmentation.stream import Segmentation, SegmentedBand

Shows = Literal["mask", "probability", "members", "bands"]

_ROWS = 256  # of a whole image at a time: noise may have a building at every other pixel


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented image, the format that it gets, and what its encoders need to know about it.

    `gsd` is what the image was taken to have, where that is known; `notices` is what the client
    should know about its own input. `checkpoint` is called while it is written, and stops that by
    raising.
    """

    filename: str
    format: "Format"
    image: Image
    segmentation: Segmentation
    provenance: Provenance
    gsd: Gsd | None = None
    output: OutputOptions = OutputOptions()
    notices: tuple[str, ...] = ()
    checkpoint: Checkpoint = keep_going

    @cached_property
    def building_pixels(self) -> int:
        """Count the mask's pixels."""
        return int(np.count_nonzero(self.segmentation.mask))

    @cached_property
    def building_fraction(self) -> float:
        """Return the share of building among the image's valid pixels; 0 when none is valid."""
        valid = self.image.valid
        pixels = self.segmentation.mask.size if valid is None else int(np.count_nonzero(valid))
        return self.building_pixels / pixels if pixels else 0.0

    @cached_property
    def building_count(self) -> int:
        """Count the buildings."""
        return count_components(self.segmentation.mask)

    @property
    def building_area(self) -> float | None:
        """Return the area of the buildings in m²; None where the GSD is not known."""
        return building_area(self.building_pixels, self.gsd)

    def findings(self) -> Findings:
        """Return the same in bands of rows, for the writers that take them."""
        return Findings(
            self.filename,
            self.image,
            self._bands(),
            self.provenance,
            gsd=self.gsd,
            output=self.output,
            notices=self.notices,
            checkpoint=self.checkpoint,
        )

    def _bands(self) -> Iterator[SegmentedBand]:
        found = self.segmentation
        assert found.disagreement is not None, "the format shows it"
        for row in range(0, self.image.height, _ROWS):
            rows = slice(row, min(row + _ROWS, self.image.height))
            yield SegmentedBand(
                row,
                found.probability[rows],
                found.disagreement[rows],
                found.mask[rows],
                self.image.read_valid(rows.start, rows.stop),
            )


class RleResult(BaseModel):
    """A mask as run-length encoding."""

    filename: str = Field(examples=["tile_0001.png"])
    width: int = Field(examples=[224])
    height: int = Field(examples=[224])
    rle: str = Field(
        description="`start length` pairs, starts counted from 1; empty when nothing was found",
        examples=["1026 12 1250 14"],
    )
    order: PixelOrder = Field(description="`row`: along rows; `column`: down columns")
    building_pixels: int = Field(examples=[26])
    building_fraction: float = Field(
        description="share of building among the valid pixels", examples=[0.0005]
    )
    building_count: int = Field(
        description="buildings: pixels that touch at a side are one", examples=[1]
    )
    building_area_m2: float | None = Field(
        description="area of the building pixels on the ground; null when the GSD is not known",
        examples=[2.34],
    )
    gate: str | None = Field(
        description="what cleared patches, and how many; null where the gate was off",
        examples=["deeplabv3plus<0.2; cleared 34 of 49 patches"],
    )
    notices: list[str] = Field(
        description="what the client should know about its own input", examples=[[]]
    )


def rle_result(result: Result) -> RleResult:
    """Describe a result's mask as run-length encoding."""
    return RleResult(
        filename=result.filename,
        width=result.image.width,
        height=result.image.height,
        rle=encode_rle(result.segmentation.mask, result.output.order),
        order=result.output.order,
        building_pixels=result.building_pixels,
        building_fraction=result.building_fraction,
        building_count=result.building_count,
        building_area_m2=result.building_area,
        gate=None if result.segmentation.gating is None else str(result.segmentation.gating),
        notices=list(result.notices),
    )


def _nothing_to_check(_: RowSource) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Format:
    """A way to hand out a result.

    `check` tells before any work whether an image can have it: it raises `ImpossibleOutput`, or
    returns what the client should know. `encode` makes it of an image that is whole, and is None
    for a format of the command line alone. `write` makes it of bands of rows, in memory that does
    not grow with the image's height, and is None where a format needs all of them at once. What is
    written at the path is not whole until it returns.
    """

    name: str
    media_type: str
    extension: str
    description: str
    encode: Callable[[Result], bytes] | None = None
    write: Callable[[Findings, Path], None] | None = None
    check: Callable[[RowSource], tuple[str, ...]] = _nothing_to_check
    shows: Shows = "members"
    """The mask alone, the probabilities too, or also how far the members agree: less is faster.
    Or the `bands` of `OutputOptions`."""


def _bytes_of(write: Callable[[Findings, IO[bytes]], None]) -> Callable[[Result], bytes]:
    def encode(result: Result) -> bytes:
        buffer = BytesIO()
        write(result.findings(), buffer)
        return buffer.getvalue()

    return encode


def _file_of(write: Callable[[Findings, IO[bytes]], None]) -> Callable[[Findings, Path], None]:
    def write_file(findings: Findings, path: Path) -> None:
        with path.open("wb") as file:
            write(findings, file)

    return write_file


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "png",
            "image/png",
            ".png",
            "8-bit single-channel mask: 255 is building, 0 is not",
            lambda result: mask_png(result.segmentation.mask, result.provenance.tags()),
            shows="mask",
        ),
        Format(
            "probability",
            "image/png",
            ".probability.png",
            "8-bit single-channel: 255 × probability, rounded",
            lambda result: probability_png(
                result.segmentation.probability, result.provenance.tags()
            ),
            shows="probability",
        ),
        Format(
            "overlay",
            "image/png",
            ".overlay.png",
            "the upload with buildings tinted and outlined",
            lambda result: overlay_png(
                result.image, result.segmentation.mask, result.provenance.tags()
            ),
            shows="mask",
        ),
        Format(
            "rle",
            "application/json",
            ".json",
            "the mask as run-length encoding, with its size and building share",
            lambda result: rle_result(result).model_dump_json().encode(),
            shows="mask",
        ),
        Format(
            "coco",
            "application/json",
            ".coco.json",
            "COCO annotations, one per building, with compressed RLE, bbox, area and score",
            _bytes_of(write_coco),
            _file_of(write_coco),
        ),
        Format(
            "geojson",
            "application/geo+json",
            ".geojson",
            "RFC 7946, one Feature per building in longitude and latitude, with `area_m2`, "
            "`confidence` and `agreement`; pixel coordinates without georeference",
            _bytes_of(write_geojson),
            _file_of(write_geojson),
            check_coordinates,
        ),
        Format(
            "geotiff",
            "image/tiff; application=geotiff; profile=cloud-optimized",
            ".tif",
            "a Cloud Optimized GeoTIFF on the upload's grid: 1 is building, 0 is not, 255 invalid",
            lambda result: encode_geotiff(result.findings()),
            write_geotiff,
            check_grid,
            shows="bands",
        ),
        Format(
            "gpkg",
            "application/geopackage+sqlite3",
            ".gpkg",
            "a GeoPackage in the image's own coordinate reference system",
            write=write_geopackage,
            check=check_table,
        ),
        Format(
            "flatgeobuf",
            "application/flatgeobuf",
            ".fgb",
            "a FlatGeobuf in the image's own coordinate reference system",
            write=write_flatgeobuf,
            check=check_table,
        ),
        Format(
            "geoparquet",
            "application/vnd.apache.parquet",
            ".parquet",
            "a GeoParquet file in the image's own coordinate reference system",
            write=write_geoparquet,
            check=check_table,
        ),
    )
}
"""By name; the first whose media type a client accepts is its default."""
