"""Choose how sure a building must be somewhere, along the path that serves."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from app.inference.hysteresis import find_unsure
from app.inference.options import SegmentOptions
from app.inference.segmenter import Segmenter
from training.data import Tile
from training.metrics import Counts, count

STEP = 0.02
HIGHEST = 0.9


def fit_high(
    segmenter: Segmenter, tiles: Sequence[Tile], *, progress: bool = False
) -> float | None:
    """Return the highest `high` at which micro Dice on `tiles` is no lower than without one.

    What is dropped so are mostly buildings that are none, a few pixels each, which micro Dice
    hardly counts: so as many of them as it does not mind. None where each costs some.
    """
    low = segmenter.manifest.threshold.value
    highs = np.arange(low + STEP, HIGHEST + STEP / 2, STEP).round(2).tolist()
    totals = [Counts() for _ in range(len(highs) + 1)]
    for tile in tqdm(tiles, desc="hysteresis", unit="tile", disable=not progress):
        image, label = tile.read()
        found = segmenter.segment(image, SegmentOptions(hysteresis="off"))
        totals[0] += count(found.mask, label)
        for i, high in enumerate(highs, 1):
            [unsure] = find_unsure([found.probability], low, high)
            totals[i] += count(found.mask & ~unsure, label)
    without, *dice = (total.dice for total in totals)
    good = [high for high, at in zip(highs, dice, strict=True) if at >= without]
    return max(good, default=None)
