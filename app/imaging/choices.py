"""A client's choices about the decoding of an image, and the parsers of their text.

It imports no library, so that the command line shows its help at once.
"""

import math
import re
from typing import TypedDict

from ..errors import InvalidOption

MIN_GSD, MAX_GSD = 0.001, 100_000.0
"""Metres per pixel between which a GSD is believed. The square of 1e-300 would be 0."""

MAX_SHARPEN = 500
"""Per cent. More was not tried."""

Rgb = tuple[int, int, int]
"""Which bands, counted from 1, are red, green and blue."""

Limits = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""For red, green and blue: the sample that becomes 0, and the one that becomes 255."""


class Decoding(TypedDict, total=False):
    """The client's choices. Without a key, or with None, the image decides."""

    rescale: Limits | None
    """Limits that take the place of percentiles."""
    sharpen: int | None
    """Per cent of sharpening."""
    rgb: Rgb | None
    """The bands to use, in place of those that the file names."""


def parse_rgb(text: str | None) -> Rgb | None:
    """Read three band numbers, counted from 1, such as `3,2,1`; None stays None.

    Raises:
        InvalidOption: anything else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,4},[1-9][0-9]{0,4},[1-9][0-9]{0,4}", text):
        raise InvalidOption(
            "rgb must be three band numbers, counted from 1, of red, green and blue, such as "
            f"3,2,1, got {text[:80]!r}."
        )
    red, green, blue = map(int, text.split(","))
    return red, green, blue


def parse_rescale(text: str | None) -> Limits | None:
    """Read `lo,hi`, for all three bands, or `lo,hi,lo,hi,lo,hi`, for each; None stays None.

    Source: titiler's and rio-tiler's `rescale`.

    Raises:
        InvalidOption: other than two or six numbers, or a low limit that is not below its high one.
    """
    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    if len(numbers) not in (2, 6) or not all(
        math.isfinite(high - low) and low < high for low, high in pairs
    ):
        raise InvalidOption(
            "rescale must be LOW,HIGH with LOW < HIGH, or three such pairs for red, green and "
            f"blue, such as 0,3000, got {text[:80]!r}."
        )
    red, green, blue = pairs * (3 // len(pairs))
    return red, green, blue
