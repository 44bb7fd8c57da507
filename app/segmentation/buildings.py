"""The buildings of a mask that comes a few rows at a time, each whole as soon as it has ended."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Probabilities are summed as whole numbers of 2^-24. Float64 holds such sums exactly, up to 500
# million pixels, so that no figure depends on where the rows were cut into bands.
_STEPS = 2.0**24


class Rows(Protocol):
    """Finished rows of a segmentation, from image row `row` on: `SegmentedBand`'s, all (h, W)."""

    @property
    def row(self) -> int: ...

    @property
    def mask(self) -> NDArray[np.bool_]: ...

    @property
    def probability(self) -> NDArray[np.float32]: ...

    @property
    def disagreement(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class Building:
    """A component of a mask, in pixels of the image.

    `runs` is int32 (n, 3): a row, the first column of a run in it, and the column after its last;
    in ascending order. `confidence` is the mean probability over its pixels, `agreement` 1 less the
    mean disagreement of the members.
    """

    runs: NDArray[np.int32]
    confidence: float
    agreement: float

    @cached_property
    def pixels(self) -> int:
        """Count its pixels."""
        return int((self.runs[:, 2] - self.runs[:, 1]).sum(dtype=np.int64))

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the image that it spans."""
        rows, starts, stops = self.runs.T
        return (
            slice(int(rows[0]), int(rows[-1]) + 1),
            slice(int(starts.min()), int(stops.max())),
        )

    def crop(self) -> NDArray[np.bool_]:
        """Draw it alone: bool, as large as its window."""
        rows, cols = self.window
        # Up by one where a run begins, down where it ends; the sum along a row is the mask.
        steps = np.zeros((rows.stop - rows.start, cols.stop - cols.start + 1), np.int8)
        row, start, stop = (self.runs - (rows.start, cols.start, cols.start)).T
        steps[row, start] = 1
        steps[row, stop] = -1
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].view(np.bool_)


def find_components(bands: Iterable[Rows]) -> Iterator[Building]:
    """Find the components of a mask whose rows come in bands, from the first row to the last.

    Pixels that touch at a side belong together, across bands too. A component leaves when a row
    without it, or the end, has come; by then its bands have been taken from `bands`. They leave in
    the order of their last rows and the first column in it, and neither order nor figures depend on
    how the rows are cut into bands. Memory holds one band, and the runs of those still open.

    Raises:
        ValueError: the bands don't follow each other.
    """
    open_parts: list[_Part] = []
    open_row: NDArray[np.int64] | None = None  # the row above: which open part, from 1 on, or 0
    end = 0
    for band in bands:
        if band.row != end:
            raise ValueError(f"A band begins at row {band.row}; row {end} is expected.")
        end += len(band.mask)
        labels, parts = _parts(band)
        above = np.zeros_like(labels[0]) if open_row is None else open_row
        meet = (above > 0) & (labels[0] > 0)
        pairs = np.stack([above[meet] - 1, len(open_parts) + labels[0][meet] - 1])
        group_of = _group(len(open_parts) + len(parts), np.unique(pairs, axis=1))
        groups: dict[int, _Part] = {}
        for group, part in zip(group_of.tolist(), [*open_parts, *parts], strict=True):
            if group in groups:
                groups[group].add(part)
            else:
                groups[group] = part

        group_of_label = np.concatenate([[-1], group_of[len(open_parts) :]])
        going_on, below = np.unique(group_of_label[labels[-1]], return_inverse=True)
        if len(going_on) and going_on[0] == -1:
            going_on, open_row = going_on[1:], below
        else:
            open_row = below + 1
        open_parts = [groups.pop(group) for group in going_on.tolist()]
        yield from _buildings(groups.values())
    yield from _buildings(open_parts)


class _Part:
    """Some rows of a component: its runs, and the sums over its pixels."""

    def __init__(self, runs: NDArray[np.int32], probability: float, disagreement: float) -> None:
        self.runs = [runs]
        self.probability = probability
        self.disagreement = disagreement

    def add(self, other: "_Part") -> None:
        """Take another part in."""
        self.runs += other.runs
        self.probability += other.probability
        self.disagreement += other.disagreement

    def building(self) -> Building:
        """Return the building that this part is the whole of."""
        runs = np.concatenate(self.runs)
        runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
        total = _STEPS * int((runs[:, 2] - runs[:, 1]).sum(dtype=np.int64))
        return Building(runs, self.probability / total, 1 - self.disagreement / total)


def _parts(band: Rows) -> tuple[NDArray[np.int32], list[_Part]]:
    """Label the components of a band's rows from 1 on, int32 (h, W), and list them."""
    labels, count = ndimage.label(band.mask)
    inside = labels[band.mask]
    probability, disagreement = (
        np.bincount(inside, np.rint(values[band.mask] * _STEPS), count + 1)[1:].tolist()
        for values in (band.probability, band.disagreement)
    )
    bordered = np.pad(band.mask, ((0, 0), (1, 1)))
    edges = bordered[:, 1:] != bordered[:, :-1]  # in turn, where a run begins and where it ended
    rows, cols = np.nonzero(edges)
    starts = cols[::2]
    runs = np.stack([rows[::2] + band.row, starts, cols[1::2]], axis=1).astype(np.int32)
    label = labels[rows[::2], starts]
    runs = runs[np.argsort(label, kind="stable")]
    ends = np.cumsum(np.bincount(label, minlength=count + 1)[1:])
    parts = np.split(runs, ends[:-1]) if count else []
    return labels, list(map(_Part, parts, probability, disagreement))


def _group(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups that `count` items fall into when the pairs, (2, n), are joined."""
    if not count:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(pairs.shape[1], np.bool_), pairs), (count, count))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return groups


def _buildings(parts: Iterable[_Part]) -> list[Building]:
    """Order by the last row, and the first column in it."""
    return sorted((part.building() for part in parts), key=_last_row)


def _last_row(building: Building) -> tuple[int, int]:
    rows, starts, _ = building.runs.T
    return int(rows[-1]), int(starts[np.searchsorted(rows, rows[-1])])
