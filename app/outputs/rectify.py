"""Square up the corners of a building's outline.

Source: the two steps of Wei, Ji and Lu, "Toward automatic building footprint delineation from
aerial images using CNN and regularization", IEEE TGRS 58(3), 2020: a coarse simplification, then
edges turned to the building's main direction. Libraries that do it (buildingregulariser) ask for
geopandas and pandas.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

Ring: TypeAlias = NDArray[np.complex128]
"""A closed ring as x + iy, so that a turn is a product; its first point comes last again."""

MIN_IOU = 0.9
"""Least IoU of the squared polygon with the building's own outline."""

_TOLERANCES = (3.0, 2.0, 1.5, 1.0, 0.85)
"""Tolerances of the simplification, in pixels. Smaller ones keep the staircase of pixels along a
slanted wall, whose right angles the building does not have."""

_WORTH = 0.005
"""Least gain in IoU for a corner: pixels make many corners that the building does not have."""

_ROUNDING = 1e-9
"""Error that rounding may leave in a share of areas."""


def rectify(
    outline: shapely.Polygon, pixel: float, *, otherwise: shapely.Polygon
) -> shapely.Polygon:
    """Return a polygon of right angles alone, or `otherwise` where none is like the outline.

    `outline` is along the edges of pixels that are `pixel` long, in the same unit. Of the polygons
    whose IoU with it is at least `MIN_IOU`, the result has the greatest IoU less `_WORTH` for each
    corner. Holes are kept.
    """
    best, best_score = otherwise, -np.inf
    for rings, turn in _candidates(outline, pixel):
        corners = _WORTH * sum(map(len, rings))
        # No IoU is above the share of the areas, which costs far less to tell.
        area = _area(rings)
        at_most = min(area, outline.area) / max(area, outline.area) + _ROUNDING
        if at_most < MIN_IOU or at_most - corners <= best_score:
            continue
        squared = _polygon([ring * turn for ring in rings])
        iou = _iou(squared, outline) if squared.is_valid else 0.0
        if iou >= MIN_IOU and iou - corners > best_score:
            best, best_score = squared, iou - corners
    return best


def _candidates(outline: shapely.Polygon, pixel: float) -> Iterator[tuple[list[Ring], complex]]:
    """Yield rings whose edges run along x and y, and the factor that turns them back."""
    frame = _frame(outline)
    before = None
    for coarse in shapely.simplify(outline, np.multiply(_TOLERANCES, pixel)):
        if shapely.equals_exact(coarse, before):
            continue
        before = coarse
        rings = [_ring(ring) for ring in (coarse.exterior, *coarse.interiors)]
        angles = list(dict.fromkeys((_long_walls(rings[0]), _frame(coarse), frame)))
        turns = np.round(np.exp(1j * np.array(angles)), 15)  # so that a quarter turn is exact
        squared = [_squared(ring * turns.conj()[:, np.newaxis]) for ring in rings]
        for turn, *of_one in zip(turns, *squared, strict=True):
            if all(len(ring) for ring in of_one):
                yield of_one, turn


def _ring(ring: shapely.LinearRing) -> Ring:
    """Return the points of a closed ring."""
    points: Ring = shapely.get_coordinates(ring).view(np.complex128)[:, 0]
    return points


def _polygon(rings: Sequence[Ring]) -> shapely.Polygon:
    shell, *holes = (ring.view(np.float64).reshape(-1, 2) for ring in rings)
    return shapely.Polygon(shell, holes)


def _long_walls(ring: Ring) -> float:
    """Return the angle, in radians, that the longest walls run along or across.

    It is the mean of directions that are equal after a quarter turn, and so of their angles times
    four. Squared lengths give long walls more weight.
    """
    edges = np.diff(ring)
    lengths = np.maximum(np.abs(edges), np.finfo(float).tiny)
    return float(np.angle(np.sum(lengths**2 * (edges / lengths) ** 4)) / 4)


def _frame(polygon: shapely.Polygon) -> float:
    """Return the angle, in radians, of the smallest rectangle around a polygon."""
    x, y = np.diff(shapely.get_coordinates(polygon.minimum_rotated_rectangle)[:2], axis=0)[0]
    return float(np.arctan2(y, x))


def _squared(turned: Ring) -> Iterator[Ring]:
    """Merge the edges of a ring into walls that run along x and y in turn, for each of its turns.

    `turned` is (turns, points). A wall lies at the mean of its edges along it, which keeps the
    area; corners are where walls meet. There are no points where nothing with an area is left.
    """
    edges = np.diff(turned)
    width, height = np.abs(edges.real), np.abs(edges.imag)
    along_x = width >= height
    middles = turned[:, :-1] + edges / 2
    lengths = np.maximum(width, height)
    sums = np.stack([lengths * np.where(along_x, middles.imag, middles.real), lengths])
    begins_wall = along_x != along_x[:, np.arange(edges.shape[1]) - 1]
    for i, begins in enumerate(begins_wall):
        first = np.flatnonzero(begins)  # edges of the walls
        if len(first) < 4:
            yield turned[i, :0]
            continue
        walls = np.add.reduceat(sums[:, i], first, axis=1)
        walls[:, -1] += sums[:, i, : first[0]].sum(axis=1)  # the last goes on past the ring's start
        places = walls[0] / walls[1]
        before = places[np.arange(len(places)) - 1]
        corners = np.where(along_x[i, first], before + 1j * places, places + 1j * before)
        yield np.append(corners, corners[0])


def _area(rings: Sequence[Ring]) -> float:
    """Return the area of a shell less its holes.

    Source: the shoelace formula.
    """
    shell, *holes = (abs(np.vdot(ring[:-1], ring[1:]).imag) / 2 for ring in rings)
    return float(shell - sum(holes))


def _iou(one: shapely.Polygon, other: shapely.Polygon) -> float:
    common = shapely.intersection(one, other).area
    return float(common / (one.area + other.area - common))
