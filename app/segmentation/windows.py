"""Where the patches of an image lie: geometry as frozen values, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels: `row` and `col` are its upper left corner."""

    row: int
    col: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Rows of the image that the window covers."""
        return slice(self.row, self.row + self.height)

    @property
    def cols(self) -> slice:
        """Columns of the image that the window covers."""
        return slice(self.col, self.col + self.width)


@dataclass(frozen=True)
class WindowGrid:
    """Windows that cover every pixel of an image, as the product of two lists of offsets.

    Iterating gives the windows row by row, from left to right. All have the same size:
    `patch` on each side, or the image's own size on an axis where the image is smaller.
    """

    height: int
    width: int
    patch: int
    row_offsets: tuple[int, ...]
    col_offsets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.row_offsets) * len(self.col_offsets)

    def __iter__(self) -> Iterator[Window]:
        return self.windows_from(0)

    def windows_from(self, first: int) -> Iterator[Window]:
        """Iterate over the windows that reach row `first` or lie below it, in the same order."""
        height, width = min(self.height, self.patch), min(self.width, self.patch)
        for row in self.row_offsets:
            if row + height > first:
                for col in self.col_offsets:
                    yield Window(row, col, height, width)


def offsets(n: int, patch: int, stride: int) -> list[int]:
    """Place windows of `patch` pixels along an axis of `n` pixels: `min(i * stride, n - patch)`.

    The last window slides inward rather than inventing pixels, so it may overlap its neighbour
    by more than the others do. Offsets increase strictly; an axis that fits into one patch has
    the single offset 0. All three are 1 or more, and the stride at most `patch`.
    """
    last = max(0, n - patch)
    return [*range(0, last, stride), last]


def plan_windows(height: int, width: int, patch: int, overlap: float) -> WindowGrid:
    """Cover an image of (height, width) pixels with windows that share `overlap` of a patch."""
    stride = max(1, round(patch * (1 - overlap)))
    rows, cols = offsets(height, patch, stride), offsets(width, patch, stride)
    return WindowGrid(height, width, patch, tuple(rows), tuple(cols))


def read_patch(pixels: NDArray[np.uint8], window: Window, patch: int) -> NDArray[np.uint8]:
    """Read the uint8 (patch, patch, 3) patch under `window` of the uint8 (H, W, 3) `pixels`.

    The result is a view, unless the window is smaller than a patch, which happens only where the
    image is: then the image lies in the upper left and is reflected to the right and downward,
    as often as it takes. A single pixel reflects into itself.
    """
    crop = pixels[window.rows, window.cols]
    if crop.shape[:2] == (patch, patch):
        return crop
    below, beside = patch - crop.shape[0], patch - crop.shape[1]
    return np.pad(crop, ((0, below), (0, beside), (0, 0)), mode="reflect")
