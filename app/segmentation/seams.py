"""Join buildings that the border between two images cuts.

Images on one pixel grid cut a building along the edges of its pixels. So its parts are joined as
pixels: the joined building has the same pixels, outline and area as in one image of all.
Minimum confidence and `min_area` act on it here, once, as `components` has them act on others.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .components import TALL, join
from .stream import Building


def join_parts(parts: Sequence[Building]) -> Iterator[tuple[Building, list[int]]]:
    """Join parts that share a side of a pixel; yield each building and the numbers of its parts.

    Buildings come in the order of their first parts.

    The runs of all parts count rows and columns of one grid, and no pixel is in two parts.
    """
    if not parts:
        return
    runs = np.concatenate([part.runs for part in parts]).astype(np.int64)
    owners = np.repeat(np.arange(len(parts)), [len(part.runs) for part in parts])
    label = join(owners[_touching(runs)], len(parts))
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    for group in sorted(groups, key=lambda numbers: int(numbers[0])):
        yield _whole([parts[number] for number in group]), group.tolist()


def is_building(building: Building, area: float, min_confidence: float, min_area: float) -> bool:
    """Tell whether a joined component is a building; `area` and `min_area` have one unit."""
    rows, _ = building.window
    enough = building.confidence >= min_confidence and area >= min_area
    return enough or rows.stop - rows.start > TALL


def _touching(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of runs that share a side: int64 (2, n), indices into `runs` (m, 3)."""
    rows = runs[:, 0] - runs[:, 0].min()
    left = runs[:, 1].min()
    stride = int(runs[:, 2].max() - left) + 1  # + 1: no row ends where the next one begins
    starts, stops = rows * stride + runs[:, 1] - left, rows * stride + runs[:, 2] - left
    order = np.argsort(starts)
    starts, stops = starts[order], stops[order]

    # Beside each other: one ends where the next begins.
    beside = np.flatnonzero(stops[:-1] == starts[1:])
    # Below each other: those that a run overlaps once it is moved down by a row.
    first = np.searchsorted(stops, starts + stride, side="right")
    count = np.searchsorted(starts, stops + stride, side="left") - first
    above = np.repeat(np.arange(len(runs)), count)
    below = np.arange(len(above)) - np.repeat(np.cumsum(count) - count, count)
    below += np.repeat(first, count)
    pairs = np.stack([np.concatenate([beside, above]), np.concatenate([beside + 1, below])])
    found: NDArray[np.int64] = order[pairs]
    return found


def _whole(parts: Sequence[Building]) -> Building:
    """Make one building of parts that touch: its means are over all pixels."""
    if len(parts) == 1:
        return parts[0]
    runs = np.concatenate([part.runs for part in parts])
    runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
    begins = np.ones(len(runs), np.bool_)
    begins[1:] = (runs[1:, 0] != runs[:-1, 0]) | (runs[1:, 1] != runs[:-1, 2])
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(runs)) - 1
    joined = np.stack([runs[firsts, 0], runs[firsts, 1], runs[lasts, 2]], axis=1)
    pixels = np.array([part.pixels for part in parts], np.float64)
    confidence = np.average([part.confidence for part in parts], weights=pixels)
    agreement = np.average([part.agreement for part in parts], weights=pixels)
    return Building(joined.astype(np.int32), float(confidence), float(agreement), is_part=True)
