"""Overlapping patches into one seamless map, a band of rows at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .windows import WindowGrid


@dataclass(frozen=True, eq=False)
class MemberBand:
    """Finished rows of the members' probability maps, from image row `row` on.

    `members` is float32 (M, h, W) in [0, 1]: one map per member, h rows high and as wide as the
    image.
    """

    row: int
    members: NDArray[np.float32]

    @property
    def rows(self) -> slice:
        """Rows of the image that the band holds."""
        return slice(self.row, self.row + self.members.shape[1])

    def below(self, row: int) -> "MemberBand":
        """Return the band's part from image row `row` on, which may have no rows."""
        cut = min(max(0, row - self.row), self.members.shape[1])
        return MemberBand(self.row + cut, self.members[:, cut:])


def blend(
    grid: WindowGrid, patches: Iterable[NDArray[np.float32]], first: int = 0
) -> Iterator[MemberBand]:
    """Blend one float32 (M, patch, patch) prediction per window, in the grid's order, into bands.

    The bands follow each other from row `first` of the image to its last. Where windows overlap,
    a pixel is the mean of their predictions, weighted by a Hann window, so no seam shows. Where
    one window lies alone, the pixel has its prediction bit for bit. A row is yielded as soon as no
    later window touches it, so memory is M x patch x width for any height.

    With `first`, `patches` holds predictions for `grid.windows_from(first)` alone. The rows have
    the same bits as without it, as each sums the same windows in the same order.

    Raises:
        ValueError: more or fewer predictions than the grid has windows.
    """
    row_weights = axis_weights(grid.height, grid.row_offsets, grid.patch)
    col_weights = axis_weights(grid.width, grid.col_offsets, grid.patch)
    next_rows = (*grid.row_offsets[1:], grid.height)
    finished_rows = {row: end - row for row, end in zip(grid.row_offsets, next_rows, strict=True)}

    pending = np.empty((0, 0, 0), np.float32)
    for window, patch in zip(grid.windows_from(first), patches, strict=True):
        if not pending.size:
            pending = np.zeros((len(patch), window.height, grid.width), np.float32)
        weights = np.outer(row_weights[window.row], col_weights[window.col])
        # A patch is larger than its window only where the image is smaller than a patch.
        pending[:, :, window.cols] += weights * patch[:, : window.height, : window.width]

        if window.col == grid.col_offsets[-1]:
            finished = finished_rows[window.row]
            # The weights at a pixel sum to 1 but for rounding, which must not leave [0, 1].
            if window.row + finished > first:
                yield MemberBand(window.row, np.clip(pending[:, :finished], 0, 1)).below(first)
            pending[:, :-finished] = pending[:, finished:]
            pending[:, -finished:] = 0


def axis_weights(
    n: int, axis_offsets: tuple[int, ...], patch: int
) -> dict[int, NDArray[np.float32]]:
    """Weigh the pixels of each window along one axis, so that the weights at every pixel sum to 1.

    Keys are offsets, values float32 (min(patch, n),). The weight of a pixel in a window is
    w(row) * w(col), and the offsets form a grid, so the total weight is a product of two sums
    too: dividing by the sum along each axis normalises the whole map, without a map of weights.

    Source: Pielawski and Wählby, "Introducing Hann windows for reducing edge-effects in
    patch-based image segmentation", PLoS ONE 15(3), 2020, e0229839. Sampled here at the centres
    of the pixels, so that it is above 0 everywhere: the border of an image has one window only.
    """
    hann = np.sin(np.pi * (np.arange(min(n, patch)) + 0.5) / patch) ** 2
    total = np.zeros(n)
    for offset in axis_offsets:
        total[offset : offset + hann.size] += hann
    return {
        offset: (hann / total[offset : offset + hann.size]).astype(np.float32)
        for offset in axis_offsets
    }
