"""Samples of any depth to 8 bits, by one stated rule.

What lies between a low and a high limit is spread over 0 to 255, per band; what lies beyond is
clipped. The limits are the client's, or percentiles of the whole raster, so that no patch is shown
brighter than its neighbour.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidOption

Limits = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""What becomes 0 and what becomes 255, of red, green and blue."""

_PERCENTILES = (2, 98)
RULE = "the 2nd and 98th percentile of each band"


def parse_rescale(text: str) -> Limits:
    """Read `lo,hi`, for all three bands, or `lo,hi,lo,hi,lo,hi`, for red, green and blue.

    Source: titiler's and rio-tiler's `rescale`.

    Raises:
        InvalidOption: other than two or six numbers, or a low limit that is not below its high one.
    """
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
            f"blue, such as rescale=0,3000, got {text[:80]!r}"
        )
    red, green, blue = pairs * (3 // len(pairs))
    return red, green, blue


def format_rescale(limits: Limits) -> str:
    """Write limits as `parse_rescale` reads them."""
    return ",".join(f"{value:.12g}" for pair in limits for value in pair)


def percentile_limits(bands: Sequence[NDArray[Any]]) -> Limits:
    """Return the `_PERCENTILES` of red, green and blue samples, to 6 significant digits.

    So the limits that a notice tells give the same pixels again. A band without contrast becomes 0
    at its one value, and 0 to 1 stand for a band without samples.
    """
    pairs = []
    for band in bands:
        low, high = map(float, np.percentile(band, _PERCENTILES) if band.size else (0, 1))
        low, high = float(f"{low:.6g}"), float(f"{high:.6g}")
        pairs.append((low, high if high > low else low + (abs(low) or 1.0)))
    red, green, blue = pairs
    return red, green, blue


def to_8_bits(samples: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Spread `low` to `high` over 0 to 255, rounded, and clip what lies beyond; NaN becomes 0."""
    spread = np.clip(samples.astype(np.float64), low, high)
    spread -= low
    spread *= 255
    spread /= high - low
    np.rint(spread, out=spread)
    return np.nan_to_num(spread, copy=False, nan=0).astype(np.uint8)


def spread(pixels: NDArray[np.uint8], limits: Limits) -> NDArray[np.uint8]:
    """Spread the limits of a picture, uint8 (h, w, 3), over 0 to 255."""
    every = np.arange(256)
    tables = [to_8_bits(every, *pair) for pair in limits]
    return np.stack([table[pixels[..., i]] for i, table in enumerate(tables)], axis=-1)
