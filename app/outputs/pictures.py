"""Results as PNG: mask, probabilities, disagreement, and the image with its buildings tinted."""

import math
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..imaging.encode import write_grey_png, write_overlay_png
from ..segmentation.stream import Band, SegmentedStream
from .provenance import tags


def write_mask(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write the mask as 8-bit single-channel PNG: 255 is building, 0 is not."""
    mask = stream.assemble(lambda band: np.multiply(band.mask, 255, dtype=np.uint8))
    write_grey_png(file, mask, tags(stream.plan))


def write_probability(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write 255 x probability, rounded, as 8-bit single-channel PNG.

    Rounding stops at the threshold: a value reaches 255 x threshold where the pixel is building,
    and nowhere else.
    """
    # A vote is building above one half, a probability at the threshold and above.
    least = 128 if stream.plan.combine == "vote" else math.ceil(255 * stream.plan.threshold)
    levels = stream.assemble(lambda band: _levels(band, least))
    write_grey_png(file, levels, tags(stream.plan))


def write_disagreement(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write 255 x how far the members disagree, rounded, as 8-bit single-channel PNG."""
    levels = stream.assemble(lambda band: to_steps(band.disagreement, 255))
    write_grey_png(file, levels, tags(stream.plan))


def write_overlay(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write the image with its buildings tinted and outlined, as RGB or RGBA PNG."""
    image = stream.image
    mask = stream.assemble(lambda band: band.mask)
    pixels, valid = image.read_pixels(0, image.height), image.read_valid(0, image.height)
    write_overlay_png(file, pixels, valid, mask, tags(stream.plan))


def to_steps(share: NDArray[np.float32] | None, steps: int) -> NDArray[np.uint8]:
    """Round a share of 0 to 1 to a number of `steps`."""
    assert share is not None, "the plan asks for it"
    rounded: NDArray[np.uint8] = np.rint(share * np.float32(steps)).astype(np.uint8)
    return rounded


def _levels(band: Band, least: int) -> NDArray[np.uint8]:
    rounded = np.rint(band.probability * np.float32(255))
    building, other = np.maximum(rounded, least), np.minimum(rounded, least - 1)
    levels: NDArray[np.uint8] = np.where(band.mask, building, other).astype(np.uint8)
    return levels
