"""The outline of a component, along the edges of its pixels."""

import numpy as np
import shapely.geometry
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine


def outline(crop: NDArray[np.bool_], row: int, col: int) -> shapely.Polygon:
    """Return the polygon around a component's pixels, holes kept.

    `crop` is the component alone, bool (h, w), whose first pixel lies at `row` and `col`. x counts
    columns and y rows, from the outer corner of the image's first pixel. The polygon is valid, and
    its area is the number of pixels, since a component's pixels are joined by their sides.
    """
    place = Affine.translation(col, row)
    [(geometry, _)] = shapes(crop.view(np.uint8), mask=crop, connectivity=4, transform=place)
    polygon: shapely.Polygon = shapely.geometry.shape(geometry)
    return polygon
