"""The result formats: one table for HTTP, the command line and the documents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel, Field

from app.imaging.encode import mask_png, overlay_png, probability_png
from app.imaging.image import Image
from app.inference.segmenter import Segmentation
from app.masks.rle import PixelOrder, encode_rle


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented image, and what its encoders need to know about it."""

    filename: str
    image: Image
    segmentation: Segmentation
    order: PixelOrder = "row"

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what the client should know about its own input."""
        return self.image.notices + self.segmentation.notices

    @cached_property
    def building_pixels(self) -> int:
        """Count the mask's pixels."""
        return int(np.count_nonzero(self.segmentation.mask))

    @property
    def building_fraction(self) -> float:
        """Return the share of building among the image's valid pixels; 0 when none is valid."""
        valid = self.image.valid
        pixels = self.segmentation.mask.size if valid is None else int(np.count_nonzero(valid))
        return self.building_pixels / pixels if pixels else 0.0


class RleResult(BaseModel):
    """A mask as run-length encoding."""

    filename: str = Field(examples=["tile_0001.png"])
    width: int = Field(examples=[224])
    height: int = Field(examples=[224])
    rle: str = Field(
        description="`start length` pairs, starts counted from 1; empty when nothing was found",
        examples=["1026 12 1250 14"],
    )
    order: PixelOrder = Field(description="`row`: along rows; `column`: down columns")
    building_pixels: int = Field(examples=[26])
    building_fraction: float = Field(
        description="share of building among the valid pixels", examples=[0.0005]
    )
    notices: list[str] = Field(
        description="what the client should know about its own input", examples=[[]]
    )


def rle_result(result: Result) -> RleResult:
    """Describe a result's mask as run-length encoding."""
    return RleResult(
        filename=result.filename,
        width=result.image.width,
        height=result.image.height,
        rle=encode_rle(result.segmentation.mask, result.order),
        order=result.order,
        building_pixels=result.building_pixels,
        building_fraction=result.building_fraction,
        notices=list(result.notices),
    )


@dataclass(frozen=True)
class Format:
    """A way to hand out a result."""

    name: str
    media_type: str
    extension: str
    description: str
    encode: Callable[[Result], bytes]


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "png",
            "image/png",
            ".png",
            "8-bit single-channel mask: 255 is building, 0 is not",
            lambda result: mask_png(result.segmentation.mask),
        ),
        Format(
            "probability",
            "image/png",
            ".probability.png",
            "8-bit single-channel: 255 × probability, rounded",
            lambda result: probability_png(result.segmentation.probability),
        ),
        Format(
            "overlay",
            "image/png",
            ".overlay.png",
            "the upload with buildings tinted and outlined",
            lambda result: overlay_png(result.image, result.segmentation.mask),
        ),
        Format(
            "rle",
            "application/json",
            ".json",
            "the mask as run-length encoding, with its size and building share",
            lambda result: rle_result(result).model_dump_json().encode(),
        ),
    )
}
"""By name; the first whose media type a client accepts is its default."""
