"""Run-length encoding of masks: `start length` pairs, starts counted from 1.

Source: the submission form of the competition that the training data come from. Its pixel order
runs along rows; many other competitions run down columns, so the order is always named.
"""

import re
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..segmentation.options import PixelOrder
from ..segmentation.stream import SegmentedStream

EMPTY_CSV = "-1"
"""How the competition's CSV form writes an empty mask: there, an empty field would be missing."""


class RleResult(BaseModel):
    """A mask as run-length encoding."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    filename: str = Field(examples=["tile_0001.png"])
    """as the client sent it"""
    width: int = Field(examples=[224])
    """pixels of a row"""
    height: int = Field(examples=[224])
    """number of rows"""
    rle: str = Field(examples=["1026 12 1250 14"])
    """`start length` pairs, starts counted from 1; empty without a building"""
    order: PixelOrder
    """`row`: along rows; `column`: down columns"""
    building_pixels: int = Field(examples=[26])
    """number of building pixels"""
    building_fraction: float = Field(examples=[0.0005])
    """share of building among the valid pixels"""
    building_count: int = Field(examples=[1])
    """number of buildings; pixels that share a side are one building"""
    building_area_m2: float | None = Field(examples=[2.34])
    """area of the building pixels on the ground; null when the GSD is not known"""
    cascade: str | None = Field(
        examples=["unet_lite decided 27 of 49 patches alone, 12 with unet_lite1"]
    )
    """how many patches each stage of the cascade decided; null where the cascade was off"""
    notices: list[str] = Field(examples=[[]])
    """what to know about the image"""


def write_rle(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write a mask as run-length encoding in a JSON object."""
    mask = stream.assemble(lambda band: band.mask)
    result = RleResult(
        filename=stream.name,
        width=stream.image.width,
        height=stream.image.height,
        rle=encode_rle(mask, stream.plan.order),
        order=stream.plan.order,
        building_pixels=stream.building_pixels,
        building_fraction=stream.building_fraction,
        building_count=stream.building_count,
        building_area_m2=stream.building_area,
        cascade=None if stream.cascade_count is None else str(stream.cascade_count),
        notices=list(stream.notices),
    )
    file.write(result.model_dump_json().encode())


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
    if (starts < 1).any() or (lengths < 1).any():
        raise ValueError("RLE starts are counted from 1 and lengths are at least 1.")
    starts = starts - 1
    ends = starts + lengths
    if (ends > size).any():
        raise ValueError(f"RLE runs outside of an image of {width} x {height} = {size} pixels.")
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
    return pairs[:, 0], pairs[:, 1]
