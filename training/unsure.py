"""Choose how sure a building must be on the whole, along the path that serves."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter
from app.segmentation.unsure import find_unsure
from training.data import Tile
from training.metrics import Counts, count

STEP = 0.01
HIGHEST = 0.9


def fit_sure(
    segmenter: Segmenter, tiles: Sequence[Tile], *, progress: bool = False
) -> float | None:
    """Return the highest `sure` at which micro Dice on `tiles` is no lower than without one.

    What is dropped so are mostly buildings that are none, a few pixels each, which micro Dice
    hardly counts: so as many of them as it does not mind. None where each costs some.
    """
    threshold = segmenter.manifest.threshold.value
    bounds = np.arange(threshold + STEP, HIGHEST + STEP / 2, STEP).round(2).tolist()
    totals = [Counts() for _ in range(len(bounds) + 1)]
    for tile in tqdm(tiles, desc="unsure", unit="tile", disable=not progress):
        image, label = tile.read()
        found = segmenter.segment(image, SegmentOptions(unsure="keep"))
        totals[0] += count(found.mask, label)
        for i, sure in enumerate(bounds, 1):
            [unsure] = find_unsure([found.probability], threshold, sure)
            totals[i] += count(found.mask & ~unsure, label)
    without, *dice = (total.dice for total in totals)
    good = [sure for sure, at in zip(bounds, dice, strict=True) if at >= without]
    return max(good, default=None)
