"""A building must be sure on the whole: what is doubtful from end to end is no building.

A component of the mask whose pixels' mean probability lies below a bound is held below the
threshold. The mean, because the highest of many pixels says less the larger a component is. What is
dropped depends on whole components, and never on how the rows were cut into bands.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TALL = 512
"""A component of more rows is kept as it is: rows wait here until it is known what becomes of them,
and memory has an end."""


def find_unsure(
    maps: Iterable[NDArray[np.float32]], threshold: float, sure: float
) -> Iterator[NDArray[np.bool_]]:
    """Tell which pixels belong to a component of `threshold` and above whose mean is below `sure`.

    `maps` are the rows of one probability map, float32 (h, W), from the first to the last; bool
    (h, W) comes back for each, as soon as all of its components are complete.
    """
    pending: list[NDArray[np.float32]] = []
    above: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
    for rows, is_last in _with_last(maps):
        pending.append(rows)
        block = np.concatenate(pending)
        found = block >= threshold
        labels, count = ndimage.label(found)
        kept, unsure = np.zeros((2, count + 1), np.bool_)
        if above is not None:  # what goes on from rows that have left
            kept[labels[0, above[0]]] = True
            unsure[labels[0, above[1]]] = True
        kept[0], unsure[0] = True, False  # the background is nobody's
        if len(block) > TALL:
            spans = [rows.stop - rows.start for rows, _ in ndimage.find_objects(labels)]
            kept[1:] |= np.array(spans) > TALL
        incomplete = np.zeros_like(kept)
        if not is_last:
            incomplete[labels[-1]] = True
            incomplete &= ~kept
        waits = incomplete[labels].any(axis=1)
        complete = int(waits.argmax()) if waits.any() else len(block)
        if complete < len(pending[0]):
            del block, found, labels
            continue
        unsure |= ~kept & (_means(block[found], labels[found], count + 1) < sure)
        done = 0
        while pending and done + len(pending[0]) <= complete:
            stop = done + len(pending.pop(0))
            yield unsure[labels[done:stop]]
            done = stop
        last = labels[done - 1]
        above = found[done - 1] & ~unsure[last], unsure[last]
        del block, found, labels  # as large as all that waits, and made anew for the next rows


def _means(
    values: NDArray[np.float32], labels: NDArray[np.int32], count: int
) -> NDArray[np.float64]:
    """Return the mean of the values of each of `count` labels; 0 where there are none.

    In float64 and in the values' order, so that the same values have the same mean to the bit.
    """
    pixels = np.bincount(labels, minlength=count)
    return np.bincount(labels, values, minlength=count) / np.maximum(pixels, 1)


def _with_last(
    maps: Iterable[NDArray[np.float32]],
) -> Iterator[tuple[NDArray[np.float32], bool]]:
    iterator = iter(maps)
    for here in iterator:
        for following in iterator:
            yield here, False
            here = following
        yield here, True
