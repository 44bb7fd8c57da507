"""Bring probabilities back to the upload's grid from the grid on which the members see it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..imaging.resample import resample_box
from .blending import MemberBand

Size = tuple[int, int]
"""Height and width in pixels."""


def seen_size(height: int, width: int, scale: tuple[float, float]) -> Size:
    """Return the size at which the members see an image.

    `scale` is the image's GSD over theirs, down and across: they see square pixels.
    """
    return max(1, round(height * scale[0])), max(1, round(width * scale[1]))


@dataclass(frozen=True)
class _Rows:
    """Which of the `height` rows of the upload's grid come from which of the `seen` rows."""

    seen: int
    height: int

    @property
    def step(self) -> float:
        """Seen rows per row of the upload."""
        return self.seen / self.height

    @property
    def reach(self) -> float:
        """Seen rows that a row of the upload uses above its centre and below, one for rounding."""
        return max(1.0, self.step) + 1

    def ready(self, given: int) -> int:
        """Return how many rows of the upload the first `given` seen rows are enough for."""
        if given == self.seen:
            return self.height
        return max(0, math.floor((given - self.reach) / self.step - 0.5))

    def needed(self, row: int) -> int:
        """Return the first seen row that row `row` of the upload, or one below it, uses."""
        return max(0, math.floor((row + 0.5) * self.step - self.reach))


def first_needed(row_offsets: Sequence[int], seen: Size, size: Size, row: int) -> int:
    """Return the first seen row that `resample_bands` needs in order to yield row `row`.

    `row_offsets` are the seen rows at which bands begin.
    """
    if seen == size:
        return row
    rows = _Rows(seen[0], size[0])
    left = max(ready for offset in row_offsets if (ready := rows.ready(offset)) <= row)
    return rows.needed(left)


def rows_reached(seen: int, height: int, rows: slice) -> tuple[int, int]:
    """Return the first row of the image that rows of a seen map change, and the one after the last.

    The same holds for columns, with widths in place of heights.
    """
    if seen == height:
        return rows.start, rows.stop
    geometry = _Rows(seen, height)
    start = math.floor((rows.start - geometry.reach) / geometry.step)
    stop = math.ceil((rows.stop + geometry.reach) / geometry.step)
    return max(0, start), min(height, stop)


def resample_bands(bands: Iterable[MemberBand], seen: Size, size: Size) -> Iterator[MemberBand]:
    """Bring the bands of a map of size `seen` onto a grid of size `size` with the same outer edges.

    Bilinear, and antialiased where the map shrinks. A row is yielded as soon as every row that it
    is made of is there, so memory grows with the width alone. Which rows a band yields depends only
    on where the band lies. So bands from `first_needed` on give the same bits as all bands do. Rows
    that need others above the first band are left out.
    """
    if seen == size:
        yield from bands
        return
    rows = _Rows(seen[0], size[0])
    pending: MemberBand | None = None
    for band in bands:
        left, ready = rows.ready(band.row), rows.ready(band.rows.stop)
        needed = rows.needed(left)
        if pending is None:
            pending = band
        else:
            kept = pending.below(needed)
            pending = MemberBand(kept.row, np.concatenate([kept.members, band.members], axis=1))
        if ready <= left or pending.row > needed:
            continue
        here = pending.rows.stop
        top, bottom = left * rows.step - pending.row, min(here, ready * rows.step) - pending.row
        members = [
            resample_box(member, (0, top, seen[1], bottom), (ready - left, size[1]), "bilinear")
            for member in pending.members
        ]
        yield MemberBand(left, np.clip(np.stack(members), 0, 1))  # rounding must not leave [0, 1]
