"""Other light, air and cameras: what a tile might have looked like, to see how well masks hold.

Labels stay where they are: nothing moves. Each is strong on purpose, so that what it costs shows.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]
_Samples = NDArray[np.floating[Any]]

_MID_GREY = np.float32(128)
_VEIL = np.array([200, 205, 215], np.float32)
"""Haze that is lit by the sky."""
_BLUR, _QUALITY, _NOISE = 1.5, 30, 12


def _samples(curve: Callable[[_Samples], _Samples]) -> Change:
    """Change samples, float32 from 0 to 255, and round them to what 8 bits hold."""

    def change(pixels: Pixels) -> Pixels:
        return np.clip(np.rint(curve(pixels.astype(np.float32))), 0, 255).astype(np.uint8)

    return change


def _times(*factors: float) -> Change:
    """Multiply all samples, or those of each band."""
    return _samples(lambda samples: samples * np.array(factors, np.float32))


def _gamma(exponent: float) -> Change:
    return _samples(lambda samples: 255 * (samples / 255) ** np.float32(exponent))


def _noise(samples: _Samples) -> _Samples:
    # From one seed, so that a tile always gets the same.
    noise = np.random.default_rng(0).standard_normal(samples.shape, np.float32)
    return samples + _NOISE * noise


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(PIL.Image.fromarray(pixels).convert("L").convert("RGB"))


def _blur(pixels: Pixels) -> Pixels:
    return np.asarray(PIL.Image.fromarray(pixels).filter(PIL.ImageFilter.GaussianBlur(_BLUR)))


def _jpeg(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return np.asarray(PIL.Image.open(file))


CONDITIONS: Mapping[str, Change] = {
    "dark": _times(0.5),
    "bright": _times(1.5),
    "flat": _samples(lambda samples: (samples + _MID_GREY) / 2),
    "haze": _samples(lambda samples: 0.6 * samples + 0.4 * _VEIL),
    "gamma-0.5": _gamma(0.5),
    "gamma-2": _gamma(2),
    "warm": _times(1.2, 1.0, 0.75),
    "cold": _times(0.75, 1.0, 1.2),
    "green": _times(0.85, 1.15, 0.85),
    "magenta": _times(1.15, 0.8, 1.15),
    "grey": _grey,
    "blur": _blur,
    "jpeg": _jpeg,
    "noise": _samples(_noise),
}
"""By name, each uint8 RGB (H, W, 3) to the same. Dark and bright are products, and what is clipped
is lost; flat has half the contrast, about mid grey; haze is a veil of 40 %; gamma is an exponent;
warm, cold, green and magenta are white balances; blur is Gaussian, of 1.5 pixels; JPEG has quality
30; noise has a standard deviation of 12 of 255."""
