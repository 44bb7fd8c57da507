"""The decoded upload."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .georeference import GeoReference, Gsd


class RowSource(Protocol):
    """An image that is read a few rows at a time, from memory or from its file."""

    @property
    def height(self) -> int:
        """Number of rows, in pixels."""

    @property
    def width(self) -> int:
        """Number of columns, in pixels."""

    @property
    def gsd(self) -> Gsd | None:
        """Metres on the ground from pixel to pixel, down and across; None if the file has none."""

    @property
    def georeference(self) -> GeoReference | None:
        """Where the image lies on the ground; None if the file does not say."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What to know about the image: ASCII, one sentence each."""

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
    `notices`: what to know about the image, ASCII, one sentence each.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None = None
    georeference: GeoReference | None = None
    notices: tuple[str, ...] = ()
    gsd: Gsd | None = None

    @property
    def height(self) -> int:
        """Number of rows, in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns, in pixels."""
        return int(self.pixels.shape[1])

    def read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop`, as a view."""
        return self.pixels[start:stop]

    def read_valid(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which pixels of these rows are valid, as a view."""
        return None if self.valid is None else self.valid[start:stop]
