"""Measure how soft an image is, and sharpen it, so that the models see edges as in training.

The whole image is measured and sharpened alike, so no patch is sharper than its neighbour.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

from .choices import MAX_SHARPEN
from .image import Image, RowSource

_REACH = 6
"""Rows to each side that sharpening looks at: Pillow blurs thrice, with a box of at most 2."""

_RADIUS = 1.5
_SOFT = 0.3
"""The ratio that `sharpening_for` measures is below this in soft images alone. Training tiles are
at 0.33 to 0.64 (the 1st and 99th of 100). Blurred with a standard deviation of 1 pixel, 99 in 100
are below 0.3, and of 2 pixels, below 0.263."""
_SMOOTH = 0.25
"""The ratio of a smooth slope, on which pixels twice as far apart differ twice as much."""
_GAIN = 5
_ROWS = 64
_ENOUGH = 100**2
_LEAST_DETAIL = 2
"""Least root mean square of the differences, of 255, in an image that is sharpened: less is no
detail."""
_PIXELS = 2**20
"""Sharpened at a time, as Pillow takes another 15 bytes for each."""


def sharpening_for(image: RowSource) -> int:
    """Return the per cent of sharpening that an image calls for: 0 unless it is soft.

    It measures the mean squared difference of adjacent pixels over that of pixels two apart, along
    some 64 rows, where all of them are valid and none is black: a collar's edge is always sharp.
    Blur lowers this ratio; contrast does not change it, and the scene hardly does. The curve from
    the ratio to per cents was fitted to Gaussian blurs of 1 to 2 pixels (docs/experiments.md,
    "Other light, air and cameras").
    """
    near = far = 0.0
    compared = 0
    step = math.ceil(image.height / _ROWS)
    for row in range(0, image.height, step):
        grey = image.read_pixels(row, row + 1)[0].sum(axis=1, dtype=np.int32)
        valid = image.read_valid(row, row + 1)
        counts = grey > 0 if valid is None else valid[0] & (grey > 0)
        near_by, far_off = np.diff(grey)[:-1], grey[2:] - grey[:-2]
        if not counts.all():
            whole = counts[:-2] & counts[1:-1] & counts[2:]
            near_by, far_off = near_by[whole], far_off[whole]
        near += float(np.square(near_by, dtype=np.float64).sum())
        far += float(np.square(far_off, dtype=np.float64).sum())
        compared += len(far_off)
    if (
        compared * step < _ENOUGH
        or far < compared * (3 * _LEAST_DETAIL) ** 2
        or near >= _SOFT * far
    ):
        return 0
    return round(min(MAX_SHARPEN, _GAIN / max(near / far - _SMOOTH, _GAIN / MAX_SHARPEN)))


def sharpen_soft(image: Image, percent: int | None) -> Image:
    """Return an image sharpened by `percent`, or by as much as it calls for, with a notice."""
    found = sharpening_for(image) if percent is None else percent
    if not found:
        return image
    size = image.height, image.width
    pixels = sharpen_rows(image.read_pixels, size, 0, image.height, found)
    notices = image.notices if percent is not None else (*image.notices, soft_notice(found))
    return replace(image, pixels=pixels, notices=notices)


def soft_notice(percent: int) -> str:
    """Describe how a soft image was sharpened."""
    return (
        f"The image is soft, and was sharpened with sharpen={percent}: sharpen=0 takes it as it is."
    )


def sharpen_rows(
    read: Callable[[int, int], NDArray[np.uint8]],
    size: tuple[int, int],
    start: int,
    stop: int,
    percent: int,
) -> NDArray[np.uint8]:
    """Return rows `start` to `stop`, sharpened: uint8 (stop - start, width, 3).

    Unsharp masking with a Gaussian of 1.5 pixels. `read` gives rows as they are, of an image of
    `size` (height, width).
    """
    height, width = size
    mask = PIL.ImageFilter.UnsharpMask(radius=_RADIUS, percent=percent, threshold=0)
    rows = np.empty((stop - start, width, 3), np.uint8)
    step = max(1, _PIXELS // width)
    for top in range(start, stop, step):
        end = min(top + step, stop)
        first, last = max(0, top - _REACH), min(height, end + _REACH)
        part = PIL.Image.fromarray(read(first, last)).filter(mask)
        rows[top - start : end - start] = np.asarray(part)[top - first : end - first]
    return rows
