"""A mask as run-length encoding in a JSON object."""

from typing import IO

from pydantic import BaseModel, Field

from ..segmentation.options import PixelOrder
from ..segmentation.stream import SegmentedStream
from .rle import encode_rle


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
    building_count: int = Field(
        description="buildings: pixels that share a side are one", examples=[1]
    )
    building_area_m2: float | None = Field(
        description="area of the building pixels on the ground; null when the GSD is not known",
        examples=[2.34],
    )
    cascade: str | None = Field(
        description="how many patches the first member decided alone; null without a cascade",
        examples=["unet_lite decided 34 of 49 patches alone"],
    )
    notices: list[str] = Field(
        description="facts about its own input that the client should know", examples=[[]]
    )


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
