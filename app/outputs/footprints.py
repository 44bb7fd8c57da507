"""From a building's pixels to a polygon on the map, with its area on the ground."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import shapely

from ..errors import ImpossibleOutput
from ..imaging.georeference import GeoReference, Gsd
from ..imaging.image import RowSource
from ..imaging.outline import outline
from ..segmentation.options import Rectify
from ..segmentation.stream import Building, SegmentedStream
from .earth import Polygon, area_on_earth, to_earth
from .rectify import rectify

# A run has up to four corners, and a corner takes about a hundred bytes until it is written.
_MAX_RUNS = 2_000_000


@dataclass(frozen=True, eq=False)
class Footprint:
    """A building as a GIS takes it.

    `on_image` is its polygon in pixels of the image, x to the right and y down. `on_map` is that in
    the image's own coordinate reference system, `on_earth` in longitude and latitude on WGS 84;
    both are None for an image without georeference. `pixel_area` is that of a pixel in m², 1 where
    the GSD is not known.
    """

    on_image: shapely.Polygon
    on_map: shapely.Polygon | None
    on_earth: Polygon | None
    confidence: float
    agreement: float
    pixel_area: float

    @cached_property
    def area(self) -> float:
        """Area of the polygon: in m², or in pixels where the GSD is not known."""
        if self.on_earth is None:
            return float(self.on_image.area) * self.pixel_area
        return area_on_earth(self.on_earth)


class Drawing(Protocol):
    """How outlines are drawn: a plan, or what is kept of one."""

    @property
    def gsd(self) -> Gsd | None:
        """Metres per pixel, down and across."""

    @property
    def simplify(self) -> float:
        """Tolerance in metres, or in pixels without a GSD."""

    @property
    def rectify(self) -> Rectify:
        """Whether corners are squared up."""


def check_place(image: RowSource) -> None:
    """Check that a georeferenced image lies somewhere on the earth.

    Raises:
        ImpossibleOutput: it does not.
    """
    georeference = image.georeference
    if georeference is None:
        return
    georeference.check_grid()
    georeference.to_degrees()
    if georeference.gsd(image.height, image.width) is None:
        raise ImpossibleOutput(
            f"The image's transform {georeference.transform} places it where its coordinate "
            "reference system is not valid. Correct the transform or the system with gdal_edit.py."
        )


def footprints(stream: SegmentedStream) -> Iterator[Footprint]:
    """Turn the buildings of a stream into footprints, one by one as they are found.

    Raises:
        ImpossibleOutput: as `draw_footprints`.
    """
    return draw_footprints(stream.buildings(), stream.image.georeference, stream.plan)


def draw_footprints(
    buildings: Iterable[Building], place: GeoReference | None, drawing: Drawing
) -> Iterator[Footprint]:
    """Turn buildings in pixels of the grid `place` into footprints.

    Raises:
        ImpossibleOutput: a building lies where the grid's reference system is not valid, or its
            outline is too long.
    """
    for building in buildings:
        if len(building.runs) > _MAX_RUNS:
            raise ImpossibleOutput(
                f"The outline of a building of {building.pixels} pixels is too long to draw. "
                "Raise the threshold, or ask for a raster such as geotiff."
            )
        rows, cols = building.window
        polygon = outline(building.crop(), rows.start, cols.start)
        shaped = _shaped(polygon, drawing)
        footprint = _footprint(building, shaped, drawing, place)
        if shaped is not polygon and not _is_valid(footprint):
            # A corner that lies on another edge may cross it once both are projected.
            footprint = _footprint(building, polygon, drawing, place)
        yield footprint


def _shaped(polygon: shapely.Polygon, drawing: Drawing) -> shapely.Polygon:
    """Simplify and square up, where asked to, as the building stands on the ground.

    Pixels may be longer than they are wide, and right angles are meant on the ground. A polygon
    that would not be valid stays as it was.
    """
    if not drawing.simplify and drawing.rectify == "none":
        return polygon
    down, across = drawing.gsd or (1.0, 1.0)
    shaped = on_ground = _scaled(polygon, across, down)
    if drawing.simplify:
        simpler = shapely.simplify(on_ground, drawing.simplify, preserve_topology=True)
        if isinstance(simpler, shapely.Polygon) and simpler.is_valid and not simpler.is_empty:
            shaped = simpler
    if drawing.rectify == "orthogonal":
        shaped = rectify(on_ground, max(down, across), otherwise=shaped)
    return _scaled(shaped, 1 / across, 1 / down)


def _is_valid(footprint: Footprint) -> bool:
    """Tell whether a polygon that is valid on the image is so in every coordinate system."""
    return all(
        polygon is None or polygon.is_valid for polygon in (footprint.on_map, footprint.on_earth)
    )


def _scaled(polygon: shapely.Polygon, x: float, y: float) -> shapely.Polygon:
    return shapely.transform(polygon, lambda points: points * (x, y))


def _footprint(
    building: Building, polygon: shapely.Polygon, drawing: Drawing, place: GeoReference | None
) -> Footprint:
    """Place a building's polygon on the map."""
    on_map, on_earth = None, None
    if place is not None:
        on_map = shapely.transform(
            polygon, lambda points: np.stack(place.to_map(points[:, 1], points[:, 0]), axis=1)
        )
        on_earth = to_earth(on_map, place.to_degrees())
    pixel_area = math.prod(drawing.gsd or (1.0, 1.0))
    return Footprint(polygon, on_map, on_earth, building.confidence, building.agreement, pixel_area)
