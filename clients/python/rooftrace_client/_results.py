"""One image's result."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from ._errors import FormatError

if TYPE_CHECKING:
    import geopandas
    import numpy as np
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

WGS84 = "EPSG:4326"
_TABLES = {"gpkg": "gpkg", "flatgeobuf": "fgb"}
"""Formats that GDAL reads, with their endings."""


@dataclass(frozen=True)
class Result:
    """A result of the service: its file, and the values of its headers.

    `content` is the file in the format that was asked for. `building_fraction` is the share of the
    valid pixels. `building_area_m2` is None where the ground size of a pixel is not known.
    `notices` are facts about the image that its sender should know. `server_timing` is in
    milliseconds by stage.
    """

    format: str
    content: bytes = field(repr=False)
    media_type: str
    building_fraction: float
    building_count: int
    building_area_m2: float | None
    notices: tuple[str, ...]
    cascade: str | None
    model_version: str
    execution_provider: str | None
    request_id: str
    server_timing: Mapping[str, float] = field(repr=False)

    @classmethod
    def of(cls, response: httpx.Response, format: str) -> Result:
        """Read a successful response to a request for `format`."""
        headers = response.headers
        area = headers.get("X-Building-Area-M2")
        return cls(
            format=format,
            content=response.content,
            media_type=headers["Content-Type"],
            building_fraction=float(headers["X-Building-Fraction"]),
            building_count=int(headers["X-Building-Count"]),
            building_area_m2=None if area is None else float(area),
            notices=tuple(map(_unescaped, headers.get_list("X-Notice"))),
            cascade=headers.get("X-Cascade"),
            model_version=headers["X-Model-Version"],
            execution_provider=headers.get("X-Execution-Provider"),
            request_id=headers["X-Request-Id"],
            server_timing=_timing(headers.get("Server-Timing", "")),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, and return its path."""
        path = Path(path)
        path.write_bytes(self.content)
        return path

    def json(self) -> dict[str, Any]:
        """Return what a `rle`, `coco` or `geojson` result holds.

        Raises:
            FormatError: the result has another format.
        """
        self._require("JSON", "rle", "coco", "geojson")
        content: dict[str, Any] = json.loads(self.content)
        return content

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask of a `png` or `rle` result, bool (height, width): True is building.

        `rle` needs numpy alone, `png` needs Pillow too.

        Raises:
            FormatError: the result has another format.
        """
        self._require("mask", "png", "rle")
        return _decoded(self.json()) if self.format == "rle" else self._pixels() > 0

    def probability(self) -> NDArray[np.float32]:
        """Return a `probability` result, float32 (height, width) from 0 to 1 in steps of 1 / 255.

        Raises:
            FormatError: the result has another format.
        """
        self._require("probabilities", "probability")
        import numpy as np

        return self._pixels().astype(np.float32) / np.float32(255)

    def polygons(self) -> list[BaseGeometry]:
        """Return the buildings of a `geojson` result as shapely's polygons.

        They are in longitude and latitude, and in pixels where the image has no georeference. A
        building on the antimeridian is a MultiPolygon.

        Raises:
            FormatError: the result has another format.
        """
        self._require("polygons", "geojson")
        from shapely.geometry import shape

        return [shape(feature["geometry"]) for feature in self.json()["features"]]

    def geodataframe(self) -> geopandas.GeoDataFrame:
        """Return the buildings of a vector format with their properties, a row for each.

        `geojson` is in longitude and latitude, or without `crs` where the image has no
        georeference. `gpkg`, `flatgeobuf` and `geoparquet` are in the image's own system.

        Raises:
            FormatError: the result has another format.
        """
        self._require("GeoDataFrame", "geojson", "geoparquet", *_TABLES)
        import geopandas

        if self.format == "geoparquet":
            return geopandas.read_parquet(io.BytesIO(self.content))
        if self.format in _TABLES:
            with tempfile.TemporaryDirectory() as folder:  # GDAL warns of other names
                table = self.save(Path(folder, f"buildings.{_TABLES[self.format]}"))
                return geopandas.read_file(table, layer=0)  # a GeoPackage has a style beside it
        collection = self.json()
        crs = None if collection.get("coordinate_system") == "pixel" else WGS84
        if not collection["features"]:  # geopandas wants at least one to know the columns
            return geopandas.GeoDataFrame(geometry=[], crs=crs)
        return geopandas.GeoDataFrame.from_features(collection, crs=crs)

    def _require(self, what: str, *formats: str) -> None:
        if self.format not in formats:
            wanted = " or ".join(f"format={name!r}" for name in formats)
            raise FormatError(f"a {self.format!r} result has no {what}: ask for {wanted}")

    def _pixels(self) -> NDArray[np.uint8]:
        import numpy as np
        import PIL.Image

        with PIL.Image.open(io.BytesIO(self.content), formats=["PNG"]) as picture:
            return np.asarray(picture, np.uint8)


def _decoded(result: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode `start length` pairs, starts counted from 1, along rows or down columns."""
    import numpy as np

    height, width = result["height"], result["width"]
    mask = np.zeros(height * width, np.bool_)
    numbers = np.array(result["rle"].split(), np.int64).reshape(-1, 2)
    for start, length in numbers.tolist():
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape((height, width), order="C" if result["order"] == "row" else "F")


def _timing(header: str) -> dict[str, float]:
    """Read `queue;dur=0.2, decode;dur=3.8`."""
    entries = (entry.strip().partition(";dur=") for entry in header.split(","))
    return {stage: float(duration) for stage, _, duration in entries if duration}


def _unescaped(notice: str) -> str:
    """Read a notice whose letters beyond ASCII came as escapes, as headers have none."""
    try:
        return notice.encode("ascii").decode("unicode_escape")
    except UnicodeError:  # cut in the middle of one
        return notice
