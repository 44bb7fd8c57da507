"""A mask as run-length encoding in a JSON object."""

from typing import IO

from pydantic import BaseModel, ConfigDict, Field

from ..segmentation.options import PixelOrder
from ..segmentation.stream import SegmentedStream
from .rle import encode_rle


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
    cascade: str | None = Field(examples=["unet_lite decided 34 of 49 patches alone"])
    """how many patches one member decided alone; null where the cascade was off"""
    notices: list[str] = Field(examples=[[]])
    """what to know about the image"""


def rle_result(stream: SegmentedStream) -> RleResult:
    """Read a stream to its end, and describe its mask as run-length encoding."""
    mask = stream.assemble(lambda band: band.mask)
    return RleResult(
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
        notices=list(stream.plan.notices),
    )


def write_rle(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write a mask as run-length encoding in a JSON object."""
    file.write(rle_result(stream).model_dump_json().encode())
