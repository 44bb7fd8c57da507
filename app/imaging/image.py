"""The decoded upload."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.imaging.georeference import GeoReference, Gsd


@dataclass(frozen=True, eq=False)
class Image:
    """Hold an upload's pixels as they are stored in the file.

    `pixels`: uint8 (height, width, 3), RGB.
    `valid`: bool (height, width), False where the file says that there is nothing; None when every
    pixel is valid.
    `gsd`: metres on the ground from pixel to pixel, down and across, where the file tells it.
    `notices`: what the client should know about its own input, ASCII, one sentence each.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None = None
    georeference: GeoReference | None = None
    notices: tuple[str, ...] = ()
    gsd: Gsd | None = None

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])
