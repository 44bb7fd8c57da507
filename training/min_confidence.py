"""Choose the minimum confidence of a building, along the path that serves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.segmentation.components import TALL
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.data import Label, Tile
from training.metrics import JUDGING_BUILDINGS, count, count_objects

STEP = 0.01
HIGHEST = 0.9
COST = 0.009
"""How much micro Dice may fall for it."""


def fit_min_confidence(
    segmenter: Segmenter, tiles: Sequence[Tile], *, progress: bool = False
) -> float:
    """Return the highest minimum confidence that costs at most `COST` of micro Dice.

    Components of low confidence are mostly false and have a few pixels each. Micro Dice hardly
    counts these, so the bound drops as many of them as it tolerates. Each source of
    `JUDGING_BUILDINGS` or more counts alike, or every source where none has as many. 0 where
    every bound drops nothing, or costs more.
    """
    threshold = segmenter.manifest.threshold.value
    bounds = np.arange(threshold + STEP, HIGHEST + STEP / 2, STEP).round(2)
    sources = sorted({tile.source for tile in tiles})
    # True positives and found pixels at each bound, after those without one; labelled pixels.
    right = np.zeros((len(sources), len(bounds) + 1))
    found, (labelled, pixels, buildings) = np.zeros_like(right), np.zeros((3, len(sources)))
    options = Options(min_confidence=0)
    for tile in progress_bar(tiles, desc="minimum confidence", unit="tile", disable=not progress):
        image, label = tile.read()
        whole = segmenter.segment_image(image, options, buildings=True)
        source = sources.index(tile.source)
        counts = count(whole.mask, label)
        right[source] += counts.true_positives
        found[source] += counts.true_positives + counts.false_positives
        labelled[source] += np.count_nonzero(label)
        pixels[source] += label.size
        buildings[source] += count_objects(label)
        for building in whole.buildings:
            rows, _ = building.window
            if rows.stop - rows.start > TALL:
                continue  # always a building
            dropped = np.concatenate([[False], bounds > building.confidence])
            right[source, dropped] -= _labelled_pixels(label, building.runs)
            found[source, dropped] -= building.pixels
    judges = buildings >= JUDGING_BUILDINGS
    share = (judges if judges.any() else np.ones_like(judges)) / pixels
    total = share @ found + share @ labelled
    dice = np.divide(2 * share @ right, total, out=np.ones_like(total), where=total > 0)
    drops = found.sum(axis=0) < found[:, 0].sum()
    good = bounds[(drops & (dice >= dice[0] - COST))[1:]]
    return float(good.max(initial=0.0))


def _labelled_pixels(label: Label, runs: NDArray[np.int32]) -> int:
    return sum(int(np.count_nonzero(label[row, start:stop])) for row, start, stop in runs.tolist())
