"""Samples of any depth to 8 bits, by one stated rule.

Samples between a low and a high limit are spread over 0 to 255, per band; others are clipped. The
limits are the client's, or those by which percentiles become what they are in the tiles that
networks are trained on. The percentiles are of the whole image, so that no patch is brighter than
its neighbour.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .choices import Limits
from .image import Image

_PERCENTILES = (2, 98)
_BECOME = (20, 205)
"""Means of the percentiles over the tiles that the shipped networks were trained on."""
_FLAT = (16, 128)
"""An 8-bit image is flat if both hold. The percentiles of one band lie at least the first apart:
with less, there is nothing to bring out. From the darkest band's to the brightest's it is less than
the second, as in one training tile in 100."""
_RED_TO_BLUE, _GREEN_TO_BOTH = (0.8, 1.5), (0.85, 1.2)
"""The 98th percentile of red over blue's, and green's over the mean of both, without a cast. Of 98
training tiles in 100 they are 0.9 to 1.4 and 0.93 to 1.05."""
_SCENE = 500**2
"""Pixels that it takes to judge an image's light: a smaller one may show a single surface."""
_SAMPLED = 2**17
RULE = "the 2nd and 98th percentile of each band become {} and {}".format(*_BECOME)


def format_rescale(limits: Iterable[tuple[float, float]]) -> str:
    """Write limits as `parse_rescale` reads them."""
    return ",".join(f"{value:.12g}" for pair in limits for value in pair)


def sampling_step(height: int, width: int) -> int:
    """Return n, where percentiles are taken of every n-th row and column."""
    return math.ceil(math.sqrt(height * width / _SAMPLED))


def percentile_limits(bands: Sequence[NDArray[Any]]) -> Limits:
    """Return limits by which the `_PERCENTILES` of each band's samples become `_BECOME`.

    They have 6 significant digits, so that the limits that a notice tells give the same pixels
    again. A band without contrast takes its one value for the lower percentile, and 0 to 1 stand
    for a band without samples.
    """
    red, green, blue = (
        _limits(*np.percentile(band, _PERCENTILES)) if band.size else (0.0, 1.0) for band in bands
    )
    return red, green, blue


def without_black(samples: NDArray[Any]) -> NDArray[Any]:
    """Leave out, of pixels (n, bands), the black ones: all of their bands are 0.

    They mostly are a collar, which tells nothing of the light.
    """
    lit = np.logical_or.reduce(samples.T)
    return samples if lit.all() else samples[lit]


def light_limits(samples: NDArray[np.uint8], step: int) -> tuple[Limits, str] | None:
    """Return limits that correct the light of an 8-bit image, and a notice; None if it is usual.

    `samples` is (n, 1 or 3): each valid pixel of every `step`-th row and column. Black ones do not
    count. Where there is a cast, bands are multiplied so that their 98th percentiles become the
    mean of these. Where the image is flat, its contrast is stretched, by as much in all bands,
    which keeps colours. Where it has a cast and is flat, each band is stretched for itself, as
    samples of more bits are.

    Source for casts: White Patch Retinex of a high percentile, as MATLAB's `illumwhite` has it.
    """
    samples = without_black(samples)
    if len(samples) * step**2 < _SCENE:
        return None
    # By histograms: numpy.percentile would sort, a hundredth of a request at 512².
    ranks = len(samples) * np.array(_PERCENTILES) / 100
    lows, highs = np.transpose(
        [
            np.bincount(band, minlength=256).cumsum().searchsorted(ranks)
            for band in np.broadcast_to(samples, (len(samples), 3)).T
        ]
    )
    least, ordinary = _FLAT
    low, high = lows.min(), highs.max()
    if (highs - lows).max() < least:
        return None
    flat = high - low < ordinary
    lit = highs - low if flat else highs  # a veil hides a cast
    cast = lit.min() >= least and _has_cast(*lit)  # a darker band can't be judged
    if cast:
        gains = highs.mean() / highs
        flat = flat or (highs * gains - lows * gains).max() < ordinary
    if cast and flat:
        found = "a colour cast and little contrast"
        red, green, blue = (_limits(*pair) for pair in zip(lows, highs, strict=True))
    elif cast:
        found = "a colour cast"
        red, green, blue = (_rounded(0, 255 / gain) for gain in gains)
    elif flat:
        found = "little contrast"
        red = green = blue = _limits(low, high)
    else:
        return None
    rescale = format_rescale([red, green, blue] if cast else [red])
    return (red, green, blue), (
        f"The image has {found}, corrected with rescale={rescale}: "
        "rescale=0,255 takes its samples as they are."
    )


def _has_cast(red: float, green: float, blue: float) -> bool:
    """Tell whether 98th percentiles show a cast that hardly any training tile has."""
    coldest, warmest = _RED_TO_BLUE
    least_green, greenest = _GREEN_TO_BOTH
    return not (
        coldest <= red / blue <= warmest and least_green <= 2 * green / (red + blue) <= greenest
    )


def _limits(low: float, high: float) -> tuple[float, float]:
    """Return the samples that become 0 and 255 if `low` and `high` become `_BECOME`."""
    low, high = _rounded(low, high)
    if low == high:
        high = low + (abs(low) or 1.0)
    dark, light = _BECOME
    unit = (high - low) / (light - dark)
    return _rounded(low - dark * unit, high + (255 - light) * unit)


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Round limits to the 6 digits that a notice tells."""
    return float(f"{low:.6g}"), float(f"{high:.6g}")


def correct_light(image: Image) -> Image:
    """Return an 8-bit image with its light corrected, and a notice of it, if it is unusual."""
    step = sampling_step(image.height, image.width)
    sampled = image.pixels[::step, ::step]
    samples = (
        sampled.reshape(-1, 3) if image.valid is None else sampled[image.valid[::step, ::step]]
    )
    corrected = light_limits(samples, step)
    if corrected is None:
        return image
    limits, notice = corrected
    return replace(image, pixels=spread(image.pixels, limits), notices=(*image.notices, notice))


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
