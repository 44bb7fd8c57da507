"""The decoded upload."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.imaging.georeference import GeoReference, Gsd


class RowSource(Protocol):
    """Whatever gives an image a few rows at a time: from memory, or from its file.

    The properties are `Image`'s.
    """

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def gsd(self) -> Gsd | None: ...

    @property
    def georeference(self) -> GeoReference | None: ...

    @property
    def notices(self) -> tuple[str, ...]: ...

    def read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop`: uint8 (stop - start, width, 3), RGB."""

    def read_valid(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which pixels of these rows are valid, bool; None where all of them are."""


@dataclass(frozen=True, eq=False)
class Image:
    """Hold an upload's pixels, each where it is stored in the file.

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

    def read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop`, as a view."""
        return self.pixels[start:stop]

    def read_valid(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which pixels of these rows are valid, as a view."""
        return None if self.valid is None else self.valid[start:stop]
