"""Bring polygons to longitude and latitude, cut them, and measure their area.

A polygon has straight edges on its map. In longitude and latitude an edge that passes near a pole
is a curve, and a polygon that crosses the antimeridian or holds a pole has to be cut.
"""

import math
from typing import TypeAlias

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from shapely import affinity

from ..errors import ImpossibleOutput
from ..imaging.georeference import WGS84, is_on_earth

Polygon: TypeAlias = shapely.Polygon | shapely.MultiPolygon
Coordinates = NDArray[np.float64]

_POLAR = 89.0
"""Latitude from which on edges may be curves: a pixel of 1 km there spans half a degree."""
_STRAIGHT = 1.0
"""Degrees of longitude that an edge may span to be drawn straight near a pole: it is off by a
thousandth of a pixel at most."""
_ROUNDS = 16
"""Times that an edge is halved at most, even if it passes through the pole."""
_GRID = 1e-10
"""Degrees to which the quarters of a polar polygon are matched where they meet."""


def area_on_earth(polygon: Polygon) -> float:
    """Measure a polygon in longitude and latitude on WGS 84, in m², its edges as geodesics."""
    return abs(float(WGS84.geometry_area_perimeter(shapely.orient_polygons(polygon))[0]))


def to_earth(on_map: shapely.Polygon, to_degrees: pyproj.Transformer) -> Polygon:
    """Bring a polygon of a map to longitude and latitude, cut where RFC 7946 asks for it.

    Source: RFC 7946, section 3.1.9.

    Raises:
        ImpossibleOutput: part of it lies where the map's coordinate reference system is not valid.
    """

    def degrees(points: Coordinates) -> Coordinates:
        lon, lat = to_degrees.transform(points[:, 0], points[:, 1], errcheck=True)
        if not is_on_earth(lon, lat).all():
            raise ProjError("there are no such longitudes or latitudes")
        return np.stack([lon, lat], axis=1)

    try:
        polygon = shapely.transform(on_map, degrees)
        _, south, _, north = polygon.bounds
        if north > _POLAR or south < -_POLAR:
            pole = 90.0 if north > _POLAR else -90.0
            return _cut_at_pole(_along_curves(on_map, to_degrees), pole)
        return _cut_at_antimeridian(polygon)
    except (ProjError, shapely.GEOSException, ValueError) as error:
        raise ImpossibleOutput(
            "Part of the image lies where its coordinate reference system is not valid: "
            f"{error}. Cut that part off with gdalwarp -te, or warp the image to another system."
        ) from error


def _along_curves(polygon: shapely.Polygon, to_degrees: pyproj.Transformer) -> shapely.Polygon:
    """Return a polygon of a map in longitude and latitude, with points where edges are curves."""

    def curve(ring: shapely.LinearRing) -> Coordinates:
        points = shapely.get_coordinates(ring)
        for _ in range(_ROUNDS):
            lon, lat = to_degrees.transform(points[:, 0], points[:, 1], errcheck=True)
            turn = np.abs((np.diff(lon) + 180) % 360 - 180)
            at_pole = np.abs(lat) > 90 - 1e-12  # has any longitude
            long = np.flatnonzero((turn > _STRAIGHT) & ~at_pole[1:] & ~at_pole[:-1])
            if not len(long):
                break
            points = np.insert(points, long + 1, (points[long] + points[long + 1]) / 2, axis=0)
        lon, lat = to_degrees.transform(points[:, 0], points[:, 1], errcheck=True)
        return np.stack([lon, lat], axis=1)

    return shapely.Polygon(curve(polygon.exterior), [curve(hole) for hole in polygon.interiors])


def _cut_at_pole(polygon: shapely.Polygon, pole: float) -> Polygon:
    """Cut a polygon near a pole along the antimeridian, and open it at the pole if that is inside.

    It is cut in the plane of an azimuthal projection, into its quadrants.
    """

    def to_plane(points: Coordinates) -> Coordinates:
        lon, distance = np.radians(points[:, 0]), 90 - np.abs(points[:, 1])
        return np.stack([distance * np.cos(lon), distance * np.sin(lon)], axis=1)

    plane = _valid(shapely.transform(polygon, to_plane))
    reach = float(np.abs(plane.bounds).max())
    quarters = [
        # A ring that touched itself at a corner may cross itself there by rounding.
        _valid(_unrolled(part, corner, pole))
        for corner in ((reach, reach), (-reach, reach), (-reach, -reach), (reach, -reach))
        for part in _polygons(
            shapely.intersection(plane, shapely.MultiPoint([(0, 0), corner]).envelope)
        )
    ]
    parts = _polygons(shapely.union_all(quarters, grid_size=_GRID))
    if not parts:
        raise ValueError("a polygon has no area so near to the pole")
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _valid(polygon: shapely.Polygon) -> shapely.Geometry:
    """Make a polygon valid: holes are cut out of it, even where they meet its edge."""
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def _polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """Return the polygons of an overlay, without the lines and points where others touch."""
    return [
        polygon
        for part in shapely.get_parts(geometry)
        for polygon in shapely.get_parts(part)
        if isinstance(polygon, shapely.Polygon) and polygon.area > 0
    ]


def _unrolled(
    quarter: shapely.Polygon, corner: tuple[float, float], pole: float
) -> shapely.Polygon:
    """Bring the part of a polygon that lies in the quadrant of `corner` back from the plane."""

    def unroll(ring: shapely.LinearRing) -> Coordinates:
        # With the quadrant's signs, -0 too: the antimeridian is 180 degrees in the east and -180 in
        # the west.
        x, y = np.copysign(shapely.get_coordinates(ring)[:-1], corner).T
        distance = np.hypot(x, y)
        degrees = np.stack([np.degrees(np.arctan2(y, x)), np.copysign(90 - distance, pole)], axis=1)
        at = np.flatnonzero(distance < _GRID)
        if not len(at):
            return degrees
        # A pole has no longitude of its own: the ring runs along the top or bottom of the map,
        # from the longitude at which it comes to that at which it leaves.
        before, after = degrees[at - 1, 0], degrees[(at + 1) % len(degrees), 0]
        degrees[at] = np.stack([before, np.full_like(before, pole)], axis=1)
        corners = np.stack([after, np.full_like(after, pole)], axis=1)
        opened: Coordinates = np.insert(degrees, at + 1, corners, axis=0)
        return opened

    return shapely.Polygon(unroll(quarter.exterior), [unroll(hole) for hole in quarter.interiors])


def _cut_at_antimeridian(polygon: shapely.Polygon) -> Polygon:
    """Bring longitudes to -180 to 180 degrees, and cut a polygon that crosses that line in two.

    No building spans half the earth, so a polygon that seems to crosses the line. Others may be
    whole turns away, as where longitudes are counted to 360 degrees and on.
    """
    west, _, east, _ = polygon.bounds
    if east - west > 180:
        polygon = shapely.transform(polygon, _eastward)
    turns = math.floor((polygon.bounds[0] + 180) / 360)
    polygon = affinity.translate(polygon, -360 * turns)
    if polygon.bounds[2] <= 180:
        return polygon
    halves = [
        shapely.intersection(polygon, shapely.box(-180, -90, 180, 90)),
        affinity.translate(shapely.intersection(polygon, shapely.box(180, -90, 540, 90)), -360),
    ]
    parts = [part for half in halves for part in shapely.get_parts(half) if part.area]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _eastward(points: Coordinates) -> Coordinates:
    """Count longitudes from 0 to 360 degrees."""
    return np.stack([points[:, 0] % 360, points[:, 1]], axis=1)
