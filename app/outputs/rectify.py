"""Square up the corners of a building's outline.

Source: the two steps of Wei, Ji and Lu, "Toward automatic building footprint delineation from
aerial images using CNN and regularization", IEEE TGRS 58(3), 2020: a coarse simplification, then
edges turned to the building's main direction. Libraries that do it (buildingregulariser) ask for
geopandas and pandas.
"""

from collections.abc import Iterator

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

MIN_IOU = 0.9
"""Of the squared polygon with the building's own outline; below it, squaring would tell a lie."""

_TOLERANCES = (3.0, 2.0, 1.5, 1.0, 0.85)
"""Of the simplification, in pixels. Below, it keeps the staircase of pixels along a slanted wall,
which has right angles too, and none that the building has."""

_WORTH = 0.005
"""What a corner must add to the IoU: pixels make many that are not the building's."""


def rectify(
    outline: shapely.Polygon, pixel: float, *, otherwise: shapely.Polygon
) -> shapely.Polygon:
    """Return a polygon of right angles alone, or `otherwise` where none is like the outline.

    `outline` is along the edges of pixels that are `pixel` long, in the same unit. Of the polygons
    whose IoU with it is at least `MIN_IOU`, the one is taken that is most like it for the corners
    it has. Holes are kept.
    """
    best, best_score = otherwise, -np.inf
    for squared in _candidates(outline, pixel):
        iou = _iou(squared, outline)
        score = iou - _WORTH * shapely.get_num_coordinates(squared)
        if iou >= MIN_IOU and score > best_score:
            best, best_score = squared, score
    return best


def _candidates(outline: shapely.Polygon, pixel: float) -> Iterator[shapely.Polygon]:
    for tolerance in _TOLERANCES:
        coarse = shapely.simplify(outline, tolerance * pixel, preserve_topology=True)
        for angle in (_long_walls(coarse), _frame(coarse), _frame(outline)):
            turned = shapely.affinity.rotate(coarse, -angle, origin=(0, 0), use_radians=True)
            squared = _squared(turned)
            if squared is not None and squared.is_valid:
                yield shapely.affinity.rotate(squared, angle, origin=(0, 0), use_radians=True)


def _long_walls(polygon: shapely.Polygon) -> float:
    """Return the angle, in radians, that the longest walls run along or across.

    The mean of directions that are equal after a quarter turn, and so of their angles times four;
    squared lengths let the long walls speak.
    """
    edges = np.diff(shapely.get_coordinates(polygon.exterior), axis=0)
    lengths, angles = np.hypot(*edges.T), np.arctan2(edges[:, 1], edges[:, 0])
    return float(np.angle(np.sum(lengths**2 * np.exp(4j * angles))) / 4)


def _frame(polygon: shapely.Polygon) -> float:
    """Return the angle, in radians, of the smallest rectangle around a polygon."""
    x, y = np.diff(shapely.get_coordinates(polygon.minimum_rotated_rectangle)[:2], axis=0)[0]
    return float(np.arctan2(y, x))


def _squared(polygon: shapely.Polygon) -> shapely.Polygon | None:
    """Turn every edge of a polygon along x or y; None where nothing with an area is left."""
    rings = [
        _squared_ring(shapely.get_coordinates(ring))
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    if any(ring is None for ring in rings):
        return None
    shell, *holes = rings
    return shapely.Polygon(shell, holes)


def _squared_ring(points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Merge the edges of a closed ring, (n, 2), into walls that run along x and y in turn.

    A wall lies at the mean of its edges along it, which keeps the area; corners are where walls
    meet.
    """
    edges = np.diff(points, axis=0)
    along_x = np.abs(edges[:, 0]) >= np.abs(edges[:, 1])
    turns = np.flatnonzero(along_x != np.roll(along_x, 1))  # edges that begin a wall
    if len(turns) < 4:
        return None
    order = np.roll(np.arange(len(edges)), -turns[0])
    wall = np.cumsum(along_x[order] != np.roll(along_x[order], 1)) - 1
    lengths = np.where(along_x, abs(edges[:, 0]), abs(edges[:, 1]))[order]
    middles = (points[:-1] + edges / 2)[order]
    across = np.where(along_x[order], middles[:, 1], middles[:, 0])
    places = np.bincount(wall, lengths * across) / np.bincount(wall, lengths)
    before = np.roll(places, 1)
    runs_along_x = along_x[order][np.searchsorted(wall, np.arange(len(places)))]
    corners = np.where(
        runs_along_x[:, None], np.stack([before, places], 1), np.stack([places, before], 1)
    )
    return np.concatenate([corners, corners[:1]])


def _iou(one: shapely.Polygon, other: shapely.Polygon) -> float:
    common = shapely.intersection(one, other).area
    return float(common / (one.area + other.area - common))
