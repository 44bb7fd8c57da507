"""Change the size of a picture or a map, with Pillow's antialiased kernels.

Where the result is coarser, the kernel widens with the factor. The outer edges of the two grids
coincide.
"""

import math
from typing import Literal, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from .image import RowSource

Scalar = TypeVar("Scalar", np.uint8, np.float32)

_KERNELS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}
_REACH = 2
"""How many pixels of the coarser grid a bicubic kernel looks to each side."""


def resample(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resample uint8 (h, w) or (h, w, 3) to (height, width), bicubic; its own size is a view."""
    if pixels.shape[:2] == (height, width):
        return pixels[:]
    return resample_box(pixels, None, (height, width), "bicubic")


def resample_rows(
    image: RowSource, size: tuple[int, int], start: int, stop: int
) -> NDArray[np.uint8]:
    """Return rows `start` to `stop` of `image` resampled to `size`: uint8 (h, w, 3).

    Bicubic. Only the rows that these are made of are read. An image that has the size is not
    copied.
    """
    if (image.height, image.width) == size:
        return image.read_pixels(start, stop)
    step = image.height / size[0]
    reach = _REACH * max(1.0, step) + 1  # and a row for rounding
    first = max(0, math.floor(start * step - reach))
    last = min(image.height, math.ceil(stop * step + reach))
    box = 0, start * step - first, image.width, min(last, stop * step) - first
    return resample_box(image.read_pixels(first, last), box, (stop - start, size[1]), "bicubic")


def resample_box(
    values: NDArray[Scalar],
    box: tuple[float, float, float, float] | None,
    size: tuple[int, int],
    kernel: Literal["bilinear", "bicubic"],
) -> NDArray[Scalar]:
    """Resample what lies in a box (left, top, right, bottom), or all, to `size`.

    `values` is uint8 (h, w) or (h, w, 3), or float32 (h, w). The kernel also looks beyond the box.
    """
    picture = PIL.Image.fromarray(values)
    return np.asarray(picture.resize(size[::-1], _KERNELS[kernel], box))
