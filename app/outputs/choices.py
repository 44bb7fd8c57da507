"""Names of the result formats. It imports no library, so that help comes at once."""

from typing import Literal

StreamFormatName = Literal[
    "png", "probability", "disagreement", "overlay", "rle", "coco", "geojson", "geotiff"
]
"""Those that need no file: `POST /segment` and standard output have these alone."""

FormatName = Literal[StreamFormatName, "gpkg", "flatgeobuf", "geoparquet"]
