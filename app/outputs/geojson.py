"""Buildings as GeoJSON. Source: RFC 7946."""

from typing import IO

import numpy as np
import shapely
from shapely.geometry import mapping

from ..imaging.image import RowSource
from ..segmentation.stream import SegmentedStream
from .earth import Polygon, area_on_earth
from .footprints import Footprint, check_place, footprints
from .jsontext import write_json
from .provenance import provenance


def check_coordinates(image: RowSource) -> tuple[str, ...]:
    """Return notices about the coordinates of an image's buildings.

    Raises:
        ImpossibleOutput: it is georeferenced, but to no known place.
    """
    check_place(image)
    if image.georeference is None:
        return ("The image has no georeference: coordinates are pixels, x to the right, y down.",)
    notice = image.georeference.position_notice(image.height, image.width)
    return () if notice is None else (notice,)


def write_geojson(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write a FeatureCollection, feature by feature as buildings are found."""
    head: dict[str, object] = {"type": "FeatureCollection"}
    if stream.image.georeference is None:
        # Not `coordinates`: RFC 7946, section 7.1, reserves that name for geometries.
        head["coordinate_system"] = "pixel"
    head["provenance"] = provenance(stream.plan)
    features = (_feature(footprint, stream) for footprint in footprints(stream))
    write_json(file, stream, head, "features", features)


def _feature(footprint: Footprint, stream: SegmentedStream) -> dict[str, object]:
    if footprint.on_earth is None:
        polygon: Polygon = _rounded(footprint.on_image, decimals=2)
        area = footprint.area
    else:
        # Rounded to about a centimetre, which changes a small area: it is measured after that.
        polygon = _rounded(footprint.on_earth, decimals=7)
        area = area_on_earth(polygon)
    return {
        "type": "Feature",
        # The right-hand rule: outer rings anticlockwise.
        "geometry": mapping(shapely.orient_polygons(polygon)),
        "properties": {
            "area_pixels" if stream.plan.gsd is None else "area_m2": round(area, 2),
            "confidence": round(footprint.confidence, 4),
            "agreement": round(footprint.agreement, 4),
        },
    }


def _rounded(polygon: Polygon, decimals: int) -> Polygon:
    """Round the coordinates; where pixels of a centimetre would collapse so, leave them."""
    rounded = shapely.transform(polygon, lambda points: np.round(points, decimals))
    return rounded if rounded.is_valid else polygon
