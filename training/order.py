"""Choose the order in which members are asked for a mask: the cheapest on labelled tiles.

Source of the rule, and of what "settled" means: `app.segmentation.early_exit`.
"""

from collections.abc import Iterable, Sequence
from itertools import permutations
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.bundle.manifest import EarlyExit
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter, read_patches
from training.data import Tile

_TIMED = 8
"""Patches in a timing, of which the best of three counts."""


def choose_order(
    segmenter: Segmenter, tiles: Sequence[Tile], split: str, *, progress: bool = False
) -> EarlyExit:
    """Ask every member about every patch of `tiles`, and see whom each order would have spared.

    Patches do not overlap here. Members are weighed, timed and compared with the threshold as
    `segmenter` has them.
    """
    members = segmenter.predictor.members
    weights = np.array([member.weight for member in segmenter.manifest.members], np.float32)
    threshold = segmenter.manifest.threshold.value
    orders = list(permutations(range(len(members))))
    asked = np.zeros((len(orders), len(members)), np.int64)
    patches = 0
    for tile in tqdm(tiles, desc="ordering", unit="tile", disable=not progress):
        image = tile.read()[0]
        grid = segmenter.plan(image, SegmentOptions(overlap=0))
        predicted = predict(segmenter, read_patches(image, grid))
        patches += predicted.shape[1]
        for row, order in zip(asked, orders, strict=True):
            row += count_asked(predicted, weights, order, threshold)
    times = [milliseconds(segmenter, name) for name in members]
    best = int(np.argmin(asked @ times))
    return EarlyExit(
        order=tuple(members[m] for m in orders[best]),
        asked={
            name: round(count / patches, 4)
            for name, count in zip(members, asked[best].tolist(), strict=True)
        },
        chosen_by=f"least time on the {patches} patches of {split}, without overlap",
    )


def count_asked(
    predicted: NDArray[np.float32],
    weights: NDArray[np.float32],
    order: Sequence[int],
    threshold: float,
) -> NDArray[np.int64]:
    """Count the patches, of float32 (M, N, S, S), about which each member must be asked."""
    asked = np.zeros(len(predicted), np.int64)
    low = np.zeros(predicted.shape[1:], np.float32)
    rest = 1.0
    for member in order:
        unsettled = ((low < threshold) & (low + rest >= threshold)).any(axis=(1, 2))
        asked[member] = np.count_nonzero(unsettled)
        low += weights[member] * predicted[member]
        rest -= weights[member]
    return asked


def predict(segmenter: Segmenter, patches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Ask all members about uint8 (S, S, 3) patches: float32 (M, N, S, S)."""
    return segmenter.predictor.predict(np.stack(list(patches)), segmenter.predictor.members)


def milliseconds(segmenter: Segmenter, member: str) -> float:
    """Time a member on noise: milliseconds a patch."""
    size = segmenter.manifest.patch_size
    noise = np.random.default_rng(0).integers(0, 256, (_TIMED, size, size, 3), np.uint8)
    times = []
    for _ in range(3):
        started = perf_counter()
        segmenter.predictor.predict(noise, (member,))
        times.append(1000 * (perf_counter() - started) / _TIMED)
    return min(times)
