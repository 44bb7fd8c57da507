"""Hysteresis: a building must be sure somewhere, and is less sure around there.

A component of the mask that nowhere reaches the higher of two thresholds is held below the lower
one. Source: J. Canny, A Computational Approach to Edge Detection, PAMI 8 (1986), on edges; here on
what `app.masks.components` calls a component. What is dropped depends on whole components alone,
never on how the rows were cut into bands.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TALL = 512
"""A component of more rows is kept as it is: rows wait here until it is known what becomes of them,
and memory has an end."""


def find_unsure(
    maps: Iterable[NDArray[np.float32]], low: float, high: float
) -> Iterator[NDArray[np.bool_]]:
    """Tell which pixels belong to a component of `low` and above that nowhere reaches `high`.

    `maps` are the rows of one probability map, float32 (h, W), from the first to the last; bool
    (h, W) comes back for each, as soon as all of its components are decided.
    """
    pending: list[NDArray[np.float32]] = []
    above: NDArray[np.bool_] | None = None  # what of the row above belongs to a kept component
    for rows, is_last in _with_last(maps):
        pending.append(rows)
        block = np.concatenate(pending)
        labels, count = ndimage.label(block >= low)
        kept = np.zeros(count + 1, np.bool_)
        kept[labels[block >= high]] = True
        if above is not None:
            kept[labels[0, above]] = True
        if len(block) > TALL:
            spans = [rows.stop - rows.start for rows, _ in ndimage.find_objects(labels)]
            kept[1:] |= np.array(spans) > TALL
        kept[0] = True  # the background is nobody's
        undecided = np.zeros_like(kept)
        if not is_last:
            undecided[labels[-1]] = True
            undecided &= ~kept
        waits = undecided[labels].any(axis=1)
        decided = int(waits.argmax()) if waits.any() else len(block)
        done = 0
        while pending and done + len(pending[0]) <= decided:
            stop = done + len(pending.pop(0))
            yield ~kept[labels[done:stop]]
            done = stop
        if done:
            above = kept[labels[done - 1]] & (labels[done - 1] > 0)


def _with_last(
    maps: Iterable[NDArray[np.float32]],
) -> Iterator[tuple[NDArray[np.float32], bool]]:
    iterator = iter(maps)
    for here in iterator:
        for following in iterator:
            yield here, False
            here = following
        yield here, True
