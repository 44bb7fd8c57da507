"""Change the size of a picture or a map, with Pillow's antialiased kernels.

Where the result is coarser, the kernel widens with the factor. The outer edges of the two grids
coincide.
"""

import math
from typing import Literal, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", np.uint8, np.float32)

_KERNELS = {
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}
_REACH = 2
"""How many pixels of the coarser grid a bicubic kernel looks to each side."""


def resample(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resample uint8 (h, w) or (h, w, 3) to (height, width), bicubic."""
    return resample_rows(pixels, (height, width), 0, height)


def resample_rows(
    pixels: NDArray[np.uint8], size: tuple[int, int], start: int, stop: int
) -> NDArray[np.uint8]:
    """Return rows `start` to `stop` of `pixels`, uint8 (h, w) or (h, w, 3), resampled to `size`.

    Bicubic. Only the rows that these are made of are looked at. A picture that has the size comes
    as a view.
    """
    if pixels.shape[:2] == size:
        return pixels[start:stop]
    step = len(pixels) / size[0]
    reach = _REACH * max(1.0, step) + 1  # and a row for rounding
    first = max(0, math.floor(start * step - reach))
    last = min(len(pixels), math.ceil(stop * step + reach))
    rows = start * step - first, min(last, stop * step) - first
    return resample_part(pixels[first:last], rows, (stop - start, size[1]), "bicubic")


def resample_part(
    values: NDArray[Scalar],
    rows: tuple[float, float],
    size: tuple[int, int],
    kernel: Literal["bilinear", "bicubic"],
) -> NDArray[Scalar]:
    """Resample what lies between two row coordinates, over the whole width, to `size`.

    `values` is uint8 (h, w) or (h, w, 3), or float32 (h, w). The kernel also looks at the rows of
    `values` beyond the two coordinates.
    """
    box = (0, rows[0], values.shape[1], rows[1])
    picture = PIL.Image.fromarray(values)
    return np.asarray(picture.resize(size[::-1], _KERNELS[kernel], box))
