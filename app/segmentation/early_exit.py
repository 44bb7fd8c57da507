"""Ask the members one after the other, and stop as soon as no answer could change the mask.

A weighted mean of probabilities lies between what it is when every member that was not asked says
0, and what it is when they all say 1. Where both lie on one side of what matters, the pixel is
settled, and a patch all of whose pixels are settled needs no further member. Patches that overlap
share pixels, so the bounds go through the blending before they are compared: only a patch that
touches an unsettled pixel goes on.

What was not asked is answered with 0. Rounding aside, which `_MARGIN` allows for, blending and mean
never fall when an answer rises, so the mask comes out bit for bit as if every member had been
asked. The probabilities do not: only masks may be made of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.segmentation.blending import axis_weights
from app.segmentation.cascade import Ask, Gating
from app.segmentation.windows import WindowGrid

ReadValid = Callable[[int, int], NDArray[np.bool_] | None]
"""`RowSource.read_valid`."""

_MARGIN = 1e-5
"""How far beyond the threshold a bound must lie; float32 sums of a few dozen terms err by 1e-6."""


@dataclass(frozen=True)
class Vote:
    """How the members are weighed, the order in which they are asked, and what they decide.

    `weights` sum to 1. `order` holds the index of each member once. To the mask, a mean below
    `lowest` is as good as 0, and one of `highest` and above as good as 1; of infinity, none is.
    """

    weights: Sequence[float]
    order: Sequence[int]
    lowest: float
    highest: float


def predict_until_settled(
    grid: WindowGrid,
    patches: Iterable[NDArray[np.uint8]],
    ask: Ask[NDArray[np.uint8]],
    vote: Vote,
    read_valid: ReadValid,
    *,
    at_least: int,
    first: int = 0,
    gating: Gating | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 (M, S, S) prediction per window of `grid`, for `blend`.

    `first` is the first row that is wanted, and there are patches for `grid.windows_from` it alone.
    With `gating`, the first member of the order is the gate's, and what it clears is settled as 0.

    Invalid pixels are settled from the start, so a window of nothing else is never predicted.
    Members are asked about the patches of a few rows of windows at once: `at_least` so many, as
    far as the image has them, for a device to be busy. Memory grows with the width alone; see
    `bytes_held`.
    """
    strips: Iterator[_Strip] = _strips(grid, patches, first, _rows_at_once(grid, at_least))
    asking = _Asking(_Blending(grid), ask, vote, read_valid, first)
    for member in vote.order:
        gate = gating if member == vote.order[0] else None
        strips = asking.about_unsettled(strips, member, gate)
    for strip in strips:
        for row in strip:
            yield from row.predictions(len(vote.weights))


def bytes_held(grid: WindowGrid, members: int, at_least: int) -> int:
    """Say how many bytes of patches, answers and sums `predict_until_settled` holds at most."""
    # Each member waits for a strip more than the one before; the one it is at has neighbours.
    rows = min(len(grid.row_offsets), (2 * members + 1) * _rows_at_once(grid, at_least))
    patch = grid.patch**2 * (3 + 4 * members + 4)
    return rows * len(grid.col_offsets) * patch


def _rows_at_once(grid: WindowGrid, at_least: int) -> int:
    return max(1, _reach(grid), -(-at_least // len(grid.col_offsets)))


def _reach(grid: WindowGrid) -> int:
    """Count the rows of windows below one that share pixels with it."""
    tops = np.array(grid.row_offsets)
    ends = np.searchsorted(tops, tops + min(grid.height, grid.patch))
    return int((ends - np.arange(len(tops))).max()) - 1


class _Row:
    """A row of windows: its patches, and what the members said of them so far.

    `low` is float32 (h, W): the weighted sum of the answers, blended across but not yet down.
    `rest` is the weight of the members that were not asked, for each patch; `cleared` says of each
    whether the gate has settled it.
    """

    def __init__(self, index: int, patches: list[NDArray[np.uint8]], low: NDArray[np.float32]):
        self.index = index
        self.patches = patches
        self.low = low
        self.answers: list[dict[int, NDArray[np.float32]]] = [{} for _ in patches]
        self.rest = np.ones(len(patches), np.float32)
        self.cleared = np.zeros(len(patches), np.bool_)

    def clear(self, place: int) -> None:
        """Settle a patch about which nobody was asked but the gate: every answer is 0."""
        self.cleared[place] = True
        self.rest[place] = 0

    def predictions(self, members: int) -> Iterator[NDArray[np.float32]]:
        for patch, answers in zip(self.patches, self.answers, strict=True):
            prediction = np.zeros((members, *patch.shape[:2]), np.float32)
            for member, answer in answers.items():
                prediction[member] = answer
            yield prediction


_Strip = list[_Row]
"""Adjoining rows of windows, asked about together."""


class _Blending:
    """The weights of `blend`, to see the bounds as it would."""

    def __init__(self, grid: WindowGrid) -> None:
        self.grid = grid
        self.height = min(grid.height, grid.patch)
        self.width = min(grid.width, grid.patch)
        self._down = axis_weights(grid.height, grid.row_offsets, grid.patch)
        self._across = axis_weights(grid.width, grid.col_offsets, grid.patch)

    def add(self, row: _Row, place: int, answer: NDArray[np.float32], weight: float) -> None:
        """Add a member's answer about a patch to what is known of its row of windows."""
        col = self.grid.col_offsets[place]
        cropped = answer[: self.height, : self.width]
        row.low[:, col : col + self.width] += self._across[col] * cropped * np.float32(weight)
        row.rest[place] -= weight

    def bounds(
        self, rows: Iterable[_Row], start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the lowest possible mean of pixel rows, and how much higher it might be."""
        low = np.zeros((stop - start, self.grid.width), np.float32)
        rest = np.zeros_like(low)
        for row in rows:
            top = self.grid.row_offsets[row.index]
            first, last = max(top, start), min(top + self.height, stop)
            if first >= last:
                continue
            down = self._down[top][first - top : last - top, np.newaxis]
            low[first - start : last - start] += down * row.low[first - top : last - top]
            rest[first - start : last - start] += down * self._rest_across(row)
        return low, rest

    def _rest_across(self, row: _Row) -> NDArray[np.float32]:
        across = np.zeros(self.grid.width, np.float32)
        for col, rest in zip(self.grid.col_offsets, row.rest, strict=True):
            across[col : col + self.width] += self._across[col] * rest
        return across


def _strips(
    grid: WindowGrid, patches: Iterable[NDArray[np.uint8]], first: int, rows_at_once: int
) -> Iterator[_Strip]:
    strip: _Strip = []
    row: list[NDArray[np.uint8]] = []
    height = min(grid.height, grid.patch)
    for window, patch in zip(grid.windows_from(first), patches, strict=True):
        row.append(patch)
        if window.col == grid.col_offsets[-1]:
            index = grid.row_offsets.index(window.row)
            strip.append(_Row(index, row, np.zeros((height, grid.width), np.float32)))
            row = []
            if len(strip) == rows_at_once:
                yield strip
                strip = []
    if strip:
        yield strip


def _with_end(strips: Iterator[_Strip]) -> Iterator[_Strip | None]:
    yield from strips
    yield None


@dataclass(frozen=True)
class _Asking:
    """What all members are asked with; see `predict_until_settled`."""

    blending: _Blending
    ask: Ask[NDArray[np.uint8]]
    vote: Vote
    read_valid: ReadValid
    first: int

    def about_unsettled(
        self, strips: Iterator[_Strip], member: int, gating: Gating | None
    ) -> Iterator[_Strip]:
        """Ask a member about the patches that touch an unsettled pixel, strip by strip.

        A strip waits for the next, whose windows lie over its last pixels; of the one before, it
        knows what this member said.
        """
        waiting: deque[_Strip] = deque(maxlen=2)
        for strip in _with_end(strips):
            if waiting:
                here = waiting[-1]
                around = [row for near in (*waiting, strip or ()) for row in near]
                self._about_strip(here, around, member, gating)
                yield here
            if strip is not None:
                waiting.append(strip)

    def _about_strip(
        self, strip: _Strip, around: Sequence[_Row], member: int, gating: Gating | None
    ) -> None:
        asked = list(self._unsettled(strip, around))
        answers = self.ask([row.patches[place] for row, place in asked], member)
        for (row, place), answer in zip(asked, answers, strict=True):
            if gating and gating.clears(answer):
                row.clear(place)
            else:
                row.answers[place][member] = answer
                self.blending.add(row, place, answer, self.vote.weights[member])

    def _unsettled(self, strip: _Strip, around: Sequence[_Row]) -> Iterator[tuple[_Row, int]]:
        """Find the patches of a strip that touch an unsettled pixel, and which of their row."""
        blending, vote = self.blending, self.vote
        offsets = blending.grid.row_offsets
        start, stop = offsets[strip[0].index], offsets[strip[-1].index] + blending.height
        low, rest = blending.bounds(around, start, stop)
        unsettled = (low < vote.highest + _MARGIN) & (low + rest >= vote.lowest - _MARGIN)
        unsettled[: max(0, self.first - start)] = False  # nobody wants these rows
        valid = self.read_valid(start, stop)
        if valid is not None:
            unsettled &= valid
        for row in strip:
            top = offsets[row.index] - start
            in_row = unsettled[top : top + blending.height]
            for place, col in enumerate(blending.grid.col_offsets):
                touches = in_row[:, col : col + blending.width].any()
                if touches and not row.cleared[place]:
                    yield row, place
