"""Between the upload's grid and the one at the GSD that the members were trained at."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from app.imaging.resample import resample_part
from app.inference.blending import Band

Size = tuple[int, int]
"""Height and width in pixels."""


def seen_size(height: int, width: int, scale: tuple[float, float]) -> Size:
    """Return the size at which the members see an image.

    `scale` is the image's GSD over theirs, down and across: they see square pixels.
    """
    return max(1, round(height * scale[0])), max(1, round(width * scale[1]))


def resample_bands(bands: Iterable[Band], seen: Size, size: Size) -> Iterator[Band]:
    """Bring the bands of a map of size `seen` onto a grid of size `size` with the same outer edges.

    Bilinear, and antialiased where the map shrinks. A row leaves as soon as every row that it is
    made of has come, so memory grows with the width alone.
    """
    if seen == size:
        yield from bands
        return
    step = seen[0] / size[0]  # rows that are seen, per row that leaves
    reach = max(1.0, step) + 1  # how far from its centre a row that leaves looks, and rounding
    pending: Band | None = None
    done = 0
    for band in bands:
        if pending is None:
            pending = band
        else:
            joined = np.concatenate([pending.members, band.members], axis=1)
            pending = Band(pending.row, joined)
        here = pending.rows.stop
        ready = size[0] if here == seen[0] else math.floor((here - reach) / step - 0.5)
        if ready <= done:
            continue
        rows = done * step - pending.row, min(here, ready * step) - pending.row
        members = [
            resample_part(member, rows, (ready - done, size[1]), "bilinear")
            for member in pending.members
        ]
        yield Band(done, np.clip(np.stack(members), 0, 1))  # rounding must not leave [0, 1]
        done = ready
        spent = max(0, math.floor((done + 0.5) * step - reach) - pending.row)
        pending = Band(pending.row + spent, pending.members[:, spent:])
