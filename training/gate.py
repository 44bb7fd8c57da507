"""Fit the lossy gate: whom to ask first, and how little it must see for nobody else to be asked.

What a gate does: `app.segmentation.cascade`. It is fitted along the path that serves, at the
default options: every tile is predicted once, and stitched again for each member and each
threshold that clears other patches than the one before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.bundle.manifest import Gate
from app.imaging.image import Image
from app.segmentation.cascade import Gating, predict_gated
from app.segmentation.segmenter import Segmenter, read_patches, stitch
from app.segmentation.windows import WindowGrid
from training.data import Label, Tile
from training.metrics import Counts, count
from training.order import milliseconds, predict

LOSS_LIMIT = 0.001
"""Share of building pixels that the masks may lose: of all of them, and of the correct ones."""


@dataclass(frozen=True)
class _Outcome:
    """The masks against their labels, and how many patches were cleared, and of the empty ones."""

    counts: Counts
    cleared: int
    cleared_empty: int

    def __add__(self, other: "_Outcome") -> "_Outcome":
        return _Outcome(
            self.counts + other.counts,
            self.cleared + other.cleared,
            self.cleared_empty + other.cleared_empty,
        )

    def lost(self, whole: "_Outcome") -> float:
        """Return the share of building pixels that the masks lost; `whole` has correct ones."""
        here, before = self.counts, whole.counts
        correct = here.true_positives / before.true_positives
        found = (here.true_positives + here.false_positives) / (
            before.true_positives + before.false_positives
        )
        return 1 - min(correct, found)


_NOTHING = _Outcome(Counts(), 0, 0)


def fit_gate(
    segmenter: Segmenter, tiles: Sequence[Tile], split: str, *, progress: bool = False
) -> Gate | None:
    """Find the gate that spares most time and loses no more than `LOSS_LIMIT`.

    A member's threshold is the highest, in hundredths and up to the ensemble's own, that keeps to
    the limit; of those that clear the same patches of `tiles`, the lowest. Of the members, the one
    wins whose gate spares most of the others' time. None where there is but one member, where no
    pixel of the masks is correct, or where every gate loses too much or clears nothing.
    """
    members, highest = segmenter.predictor.members, segmenter.manifest.threshold.value
    if len(members) == 1:
        return None
    thresholds = [t / 100 for t in range(1, 100) if t / 100 <= highest]
    whole, patches, empty = _NOTHING, 0, 0
    gated = {member: [_NOTHING] * len(thresholds) for member in members}
    for tile in tqdm(tiles, desc="gate", unit="tile", disable=not progress):
        trial = _Trial.of(segmenter, tile)
        without = trial.without()
        whole += without
        for member, totals in gated.items():
            these = trial.gated(member, thresholds, without)
            gated[member] = [a + b for a, b in zip(totals, these, strict=True)]
        patches += len(trial.bare)
        empty += int(np.count_nonzero(trial.bare))

    if not whole.counts.true_positives:
        return None
    times = {member: milliseconds(segmenter, member) for member in members}
    best, best_spared = None, 0.0
    for member, outcomes in gated.items():
        # The higher a threshold, the more is cleared, and lost.
        kept = [one for one in outcomes if one.lost(whole) <= LOSS_LIMIT]
        spared = kept[-1].cleared * (sum(times.values()) - times[member]) if kept else 0.0
        if spared > best_spared:
            lowest = next(i for i, one in enumerate(outcomes) if one.cleared == kept[-1].cleared)
            best, best_spared = (member, thresholds[lowest], outcomes[lowest]), spared
    if best is None:
        return None
    member, threshold, outcome = best
    return Gate(
        member=member,
        threshold=threshold,
        lost=round(outcome.lost(whole), 6),
        dice_micro_change=round(outcome.counts.dice - whole.counts.dice, 6),
        cleared=round(outcome.cleared / patches, 4),
        cleared_empty=round(outcome.cleared_empty / empty, 4) if empty else 0.0,
        fitted_on=f"{split} ({len(tiles)} images, {patches} patches, {empty} of them empty)",
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A tile that is predicted: all that is needed to segment it with any gate.

    `predicted` is float32 (M, N, S, S), `bare` says of each patch whether no pixel is labelled.
    """

    segmenter: Segmenter
    image: Image
    label: Label
    grid: WindowGrid
    bare: NDArray[np.bool_]
    predicted: NDArray[np.float32]

    @classmethod
    def of(cls, segmenter: Segmenter, tile: Tile) -> "_Trial":
        image, label = tile.read()
        grid = segmenter.plan(image)
        predicted = predict(segmenter, read_patches(image, grid))
        return cls(segmenter, image, label, grid, _bare(grid, label), predicted)

    def without(self) -> _Outcome:
        """Segment the tile without a gate."""
        return self._outcome(self.predicted.swapaxes(0, 1), np.zeros_like(self.bare))

    def gated(
        self, member: str, thresholds: Sequence[float], without: _Outcome
    ) -> Iterator[_Outcome]:
        """Segment the tile with a member's gate at each of `thresholds`, which rise."""
        members = self.segmenter.predictor.members
        before, latest = np.zeros_like(self.bare), without
        for threshold in thresholds:
            gating = Gating(member, threshold)
            said = self.predicted[members.index(member)]
            cleared = np.array([gating.clears(answer) for answer in said])
            if not np.array_equal(cleared, before):
                predictions = predict_gated(
                    range(len(said)),
                    lambda few, m: self.predicted[m, few],
                    members,
                    Gating(member, threshold),
                    at_once=len(said),
                )
                before, latest = cleared, self._outcome(predictions, cleared)
            yield latest

    def _outcome(
        self, predictions: Iterable[NDArray[np.float32]], cleared: NDArray[np.bool_]
    ) -> _Outcome:
        bands = stitch(self.image, self.grid, predictions)
        mask = self.segmenter.combine(self.image, bands).mask
        some, of_empty = (int(np.count_nonzero(which)) for which in (cleared, cleared & self.bare))
        return _Outcome(count(mask, self.label), some, of_empty)


def _bare(grid: WindowGrid, label: Label) -> NDArray[np.bool_]:
    """Say which windows, laid over the image as the members see it, have no labelled pixel."""
    down, across = label.shape[0] / grid.height, label.shape[1] / grid.width
    return np.array(
        [
            not label[
                int(w.row * down) : round((w.row + w.height) * down),
                int(w.col * across) : round((w.col + w.width) * across),
            ].any()
            for w in grid
        ]
    )
