"""Between the upload's grid and the one at the GSD that the members were trained at."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..imaging.resample import resample_part
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
    """How the rows of a map of one height come from those of another."""

    seen: int
    height: int

    @property
    def step(self) -> float:
        """Rows that are seen, per row that leaves."""
        return self.seen / self.height

    @property
    def reach(self) -> float:
        """How far from its centre a row that leaves looks, and one for rounding."""
        return max(1.0, self.step) + 1

    def ready(self, come: int) -> int:
        """Return how many rows can leave when the first `come` rows have come."""
        if come == self.seen:
            return self.height
        return max(0, math.floor((come - self.reach) / self.step - 0.5))

    def needed(self, left: int) -> int:
        """Return the first row that is still needed when the first `left` rows have left."""
        return max(0, math.floor((left + 0.5) * self.step - self.reach))


def first_needed(row_offsets: Sequence[int], seen: Size, size: Size, row: int) -> int:
    """Return the row of a map that must come for `resample_bands` to give row `row`.

    `row_offsets` are where the map's bands begin.
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

    Bilinear, and antialiased where the map shrinks. A row leaves as soon as every row that it is
    made of has come, so memory grows with the width alone. Which rows leave with a band, and what
    they are made of, is a matter of where that band lies: bands that begin at `first_needed` give
    the same bits from there on. What would need rows above the first band is left out.
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
        part = left * rows.step - pending.row, min(here, ready * rows.step) - pending.row
        members = [
            resample_part(member, part, (ready - left, size[1]), "bilinear")
            for member in pending.members
        ]
        yield MemberBand(left, np.clip(np.stack(members), 0, 1))  # rounding must not leave [0, 1]
