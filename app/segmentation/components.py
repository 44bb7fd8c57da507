"""Connected components of a mask whose rows come in bands: the one place that finds buildings.

Pixels that share a side belong together; a corner does not connect. So the outline of a component
is one valid polygon, which at most touches itself at a corner of a hole.

A component with too low a mean probability, or with too few pixels, is no building: its pixels are
held just below the threshold, so a mask is always where probabilities reach it. A band waits until
each of its components is known to be a building or not. Nothing depends on where the rows were cut
into bands.

A component on a seam, beside another image's pixels, is left to `seams`, which knows the others.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .stream import Band, Building

TALL = 512
"""A component of more rows is always a building: bands need not wait for its end, so memory stays
bounded."""

# Probabilities and areas are summed as whole numbers of 2^-24. Float64 holds such sums exactly, up
# to 500 million pixels, so that no sum depends on where the rows were cut into bands.
_STEPS = 2.0**24


@dataclass(frozen=True)
class Rule:
    """When a component is a building.

    Its mean probability is at least `min_confidence`, and its area at least `min_area`: in m² with
    `row_areas`, the area of a pixel of each row, else in pixels. Else its probabilities are lowered
    to `below` where they are higher.
    """

    min_confidence: float
    min_area: float
    below: float
    row_areas: NDArray[np.float64] | None = None

    @property
    def keeps_all(self) -> bool:
        """Tell whether every component is a building."""
        return self.min_confidence <= 0 and self.min_area <= 0

    def pixel_areas(self, rows: slice) -> NDArray[np.float64]:
        """Return the area of a pixel of some rows in whole steps, as large as a mean one's."""
        if self.row_areas is None:
            return np.full(rows.stop - rows.start, _STEPS)
        steps: NDArray[np.float64] = np.rint(
            self.row_areas[rows] * (_STEPS / self.row_areas.mean())
        )
        return steps

    @property
    def least(self) -> float:
        """Return `min_area` in whole steps too: 100 pixels of 0.3 m are 9 m², and no less."""
        mean = 1.0 if self.row_areas is None else float(self.row_areas.mean())
        return float(np.rint(self.min_area * (_STEPS / mean)))


def find_buildings(bands: Iterable[Band], rule: Rule, *, each: bool = False) -> Iterator[Band]:
    """Yield an image's bands, in which components that are no buildings lie below the threshold.

    Each has the number of buildings that have ended, and with `each` these buildings. Memory holds
    the bands that wait, at most `TALL` rows and one band, and with `each` the runs of components
    that have not ended.

    Raises:
        ValueError: the bands don't follow each other from row 0 on.
    """
    components = _Components(rule)
    waiting = components.waiting
    count, buildings = 0, list[Building]()
    end = 0
    for band, is_last in _with_last(bands):
        if band.row != end:
            raise ValueError(f"A band begins at row {band.row}; row {end} is expected.")
        end += len(band.mask)
        ended = components.add(band, is_last=is_last, each=each)
        decided, is_building = components.decide()
        count += int(np.count_nonzero(ended & is_building))
        buildings += components.take(ended, is_building)
        while waiting and decided[waiting[0].ids].all():
            left = _hold(waiting.popleft(), is_building, rule.below)
            yield replace(left, building_count=count, buildings=tuple(buildings))
            count, buildings = 0, []
        components.forget()


@dataclass(eq=False)
class _Labelled:
    """A band that waits: int32 (h, W) labels from 1 on, and the component of each label."""

    band: Band
    labels: NDArray[np.int32]
    ids: NDArray[np.int64]


class _Components:
    """Components that are open, as they may go on in the next band, or are in a waiting band.

    All arrays have a column for each component. `sums` is float64 (5, n): pixels; area, probability
    and disagreement in `_STEPS`; and pixels on a seam. `rows` is int64 (2, n): the first row, and
    the one after the last.
    """

    def __init__(self, rule: Rule) -> None:
        self.waiting: deque[_Labelled] = deque()
        self._rule = rule
        self._sums = np.zeros((5, 0))
        self._rows = np.zeros((2, 0), np.int64)
        self._is_open = np.zeros(0, np.bool_)
        self._last_row = np.zeros(0, np.int64)  # of its pixels: component from 1 on, or 0
        self._runs = np.zeros((0, 3), np.int32)  # of open components
        self._run_ids = np.zeros(0, np.int64)

    def add(self, band: Band, *, is_last: bool, each: bool) -> NDArray[np.bool_]:
        """Label the components of the next band, and join them with those that reach into it.

        Return for each component whether it has ended with this band, or just before it.
        """
        labels, count = ndimage.label(band.mask)
        before = self._sums.shape[1]
        joined = self._join(labels[0], before, count)
        size = int(joined.max(initial=-1)) + 1

        sums = np.concatenate([self._sums, _sums(band, labels, count, self._rule)], axis=1)
        self._sums = np.stack([np.bincount(joined, row, size) for row in sums])
        spans = [found[0] for found in ndimage.find_objects(labels)]
        tops = np.array([band.row + rows.start for rows in spans], np.int64)
        bottoms = np.array([band.row + rows.stop for rows in spans], np.int64)
        rows = np.empty((2, size), np.int64)
        rows[0], rows[1] = band.row + len(band.mask), 0
        np.minimum.at(rows[0], joined, np.concatenate([self._rows[0], tops]))
        np.maximum.at(rows[1], joined, np.concatenate([self._rows[1], bottoms]))
        self._rows = rows

        for labelled in self.waiting:
            labelled.ids = joined[labelled.ids]
        ids = joined[before:]
        ended = np.zeros(size, np.bool_)
        ended[joined[:before][self._is_open]] = ended[ids] = True  # unless they are still open
        self.waiting.append(_Labelled(band, labels, ids))
        self._last_row = np.concatenate([[0], ids + 1])[labels[-1]]
        self._is_open = np.zeros(size, np.bool_)
        if not is_last:
            self._is_open[self._last_row[self._last_row > 0] - 1] = True
        ended &= ~self._is_open
        if each:
            runs, label = _runs(band, labels)
            self._runs = np.concatenate([self._runs, runs])
            self._run_ids = np.concatenate([joined[self._run_ids], ids[label - 1]])
        return ended

    def _join(self, first_row: NDArray[np.int32], before: int, count: int) -> NDArray[np.int64]:
        """Return each component's new number: of those so far, then of the band's labels."""
        size = before + count
        pairs = np.zeros((2, 0), np.int64)
        if before:
            meet = (self._last_row > 0) & (first_row > 0)
            pairs = np.stack([self._last_row[meet] - 1, before + first_row[meet] - 1])
        if not pairs.size:
            return np.arange(size)
        return join(pairs, size)

    def decide(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return for each component whether it is decided, and whether it is a building."""
        rule, (pixels, area, probability, _, seam) = self._rule, self._sums
        if rule.keeps_all:
            return np.ones(len(pixels), np.bool_), np.ones(len(pixels), np.bool_)
        kept = (self._rows[1] - self._rows[0] > TALL) | (seam > 0)
        sure = probability / (_STEPS * pixels) >= rule.min_confidence
        enough = sure & (area >= rule.least)
        return ~self._is_open | kept, enough | kept

    def take(self, ended: NDArray[np.bool_], is_building: NDArray[np.bool_]) -> list[Building]:
        """Drop the runs of components that have ended, and return the buildings among these.

        They are in the order of their last rows, and of the first column there.
        """
        leaves = ended[self._run_ids]
        mine = leaves & is_building[self._run_ids]
        runs, ids = self._runs[mine], self._run_ids[mine]
        self._runs, self._run_ids = self._runs[~leaves], self._run_ids[~leaves]
        if not len(ids):
            return []
        order = np.lexsort((runs[:, 1], runs[:, 0], ids))
        runs, ids = runs[order], ids[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        pixels, _, probability, disagreement, seam = self._sums[:, ids[starts]]
        confidence = (probability / (_STEPS * pixels)).tolist()
        agreement = (1 - disagreement / (_STEPS * pixels)).tolist()
        is_part = (seam > 0).tolist()
        found = map(Building, np.split(runs, starts[1:]), confidence, agreement, is_part)
        return sorted(found, key=_last_row)

    def forget(self) -> None:
        """Drop the components that have ended and are in no waiting band."""
        used = self._is_open.copy()
        for labelled in self.waiting:
            used[labelled.ids] = True
        number = np.cumsum(used) - 1
        for labelled in self.waiting:
            labelled.ids = number[labelled.ids]
        self._run_ids = number[self._run_ids]
        inside = self._last_row > 0
        # After the last band nothing is open, and these numbers are not used again.
        self._last_row[inside] = number[self._last_row[inside] - 1] + 1
        self._sums, self._rows = self._sums[:, used], self._rows[:, used]
        self._is_open = self._is_open[used]


def join(pairs: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return a number for each of `size` nodes, from 0 on, which connected nodes share.

    `pairs`, int64 (2, n), are the edges between nodes.
    """
    graph = coo_array((np.ones(pairs.shape[1], np.bool_), pairs), (size, size))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _sums(band: Band, labels: NDArray[np.int32], count: int, rule: Rule) -> NDArray[np.float64]:
    """Compute the columns of `_Components.sums` for a band's labels: float64 (5, count)."""
    inside = labels[band.mask]

    def total(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.asarray(np.bincount(inside, weights, count + 1)[1:], np.float64)

    sums = np.zeros((5, count))
    sums[0] = total(None)
    areas = np.repeat(rule.pixel_areas(band.rows), np.count_nonzero(band.mask, axis=1))
    sums[1] = total(areas)
    for row, values in enumerate((band.probability, band.disagreement), 2):
        if values is not None:
            sums[row] = total(np.rint(values[band.mask] * _STEPS))
    if band.seam is not None:
        sums[4] = total(band.seam[band.mask].astype(np.float64))
    return sums


def _runs(band: Band, labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the runs of a band's mask, int32 (n, 3) as `Building` has them, and their labels."""
    bordered = np.pad(band.mask, ((0, 0), (1, 1)))
    edges = bordered[:, 1:] != bordered[:, :-1]  # in turn, where a run begins and where it ended
    rows, cols = np.nonzero(edges)
    starts = cols[::2]
    runs = np.stack([rows[::2] + band.row, starts, cols[1::2]], axis=1).astype(np.int32)
    return runs, labels[rows[::2], starts]


def _hold(labelled: _Labelled, is_building: NDArray[np.bool_], below: float) -> Band:
    """Hold the components of a band that are no buildings below the threshold."""
    band = labelled.band
    is_held = ~is_building[labelled.ids]
    if not is_held.any():
        return band
    held = np.concatenate([[False], is_held])[labelled.labels]
    lowered = np.where(held, np.minimum(band.probability, np.float32(below)), band.probability)
    return replace(band, probability=lowered, mask=band.mask & ~held)


def _last_row(building: Building) -> tuple[int, int]:
    rows, starts, _ = building.runs.T
    return int(rows[-1]), int(starts[np.searchsorted(rows, rows[-1])])


def _with_last(bands: Iterable[Band]) -> Iterator[tuple[Band, bool]]:
    """Yield each band, and whether it is the last."""
    iterator = iter(bands)
    for here in iterator:
        for following in iterator:
            yield here, False
            here = following
        yield here, True
