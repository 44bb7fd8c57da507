"""Run-length encoding of masks: `start length` pairs, starts counted from 1.

Source: the submission form of the competition that the training data come from. Its pixel order
runs along rows; many other competitions run down columns, so the order is always named.
"""

import re

import numpy as np
from numpy.typing import NDArray

from ..segmentation.options import PixelOrder

EMPTY_CSV = "-1"
"""How the competition's CSV form writes an empty mask: there, an empty field would be missing."""


def encode_rle(mask: NDArray[np.bool_], order: PixelOrder) -> str:
    """Encode a mask, bool (height, width), as pairs separated by spaces; an empty mask as ""."""
    pixels = (mask if order == "row" else mask.T).ravel()
    if not pixels.size:
        return ""
    bounds = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1  # a run starts or ends here
    bounds = np.concatenate(
        ([0] if pixels[0] else [], bounds, [pixels.size] if pixels[-1] else [])
    ).astype(np.int64)
    starts, ends = bounds[::2], bounds[1::2]
    pairs = np.stack((starts + 1, ends - starts), axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def decode_rle(text: str, height: int, width: int, order: PixelOrder) -> NDArray[np.bool_]:
    """Decode pairs to a mask, bool (height, width); "" and "-1" (`EMPTY_CSV`) are empty masks.

    Raises:
        ValueError: not pairs of positive integers, not ascending, overlapping, or outside of the
            image.
    """
    size = height * width
    starts, lengths = _parse_pairs("" if text.strip() == EMPTY_CSV else text)
    if starts.size and (min(starts.min(), lengths.min()) < 1):
        raise ValueError("RLE starts are counted from 1 and lengths are at least 1.")
    # Each by itself first: the sum of two huge numbers would overflow.
    if starts.size and (
        max(starts.max(), lengths.max()) > size or (starts + lengths).max() > size + 1
    ):
        raise ValueError(f"RLE runs outside of an image of {width} x {height} = {size} pixels.")
    starts -= 1
    ends = starts + lengths
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("RLE runs must ascend and must not overlap.")
    # Lengths of background and mask in turn, beginning and ending with background.
    bounds = np.concatenate(([0], np.stack((starts, ends), axis=1).ravel(), [size]))
    values = np.arange(bounds.size - 1) % 2 == 1
    pixels = np.repeat(values, np.diff(bounds))
    if order == "row":
        return pixels.reshape(height, width)
    return np.ascontiguousarray(pixels.reshape(width, height).T)


def _parse_pairs(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not re.fullmatch(r"[0-9 \t\r\n]*", text):
        raise ValueError("RLE holds something other than numbers and spaces.")
    words = text.split()
    if len(words) % 2:
        raise ValueError(f"RLE holds {len(words)} numbers; pairs of start and length are expected.")
    if any(len(word) > 18 for word in words):
        raise ValueError("RLE holds a number that no image reaches.")
    pairs = np.array([int(word) for word in words], np.int64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1]
