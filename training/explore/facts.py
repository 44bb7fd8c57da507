"""The few figures that are kept of a labelled tile; tiles are read one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from app.errors import RooftraceError
from app.imaging.image import Image
from app.terminal import progress_bar
from training.data import Label, Tile
from training.explore.suspicion import Boxes, Shift, best_shift, find_boxes


@dataclass(frozen=True, eq=False)
class Facts:
    """What is kept of a tile.

    `areas`, int64 (components,), has the pixels of its label's 4-connected components. `colour`,
    float64 (2, 3), is the sum of the R, G and B of its `valid` pixels, and of their squares.
    `shift` is None where there is too little to tell it from.
    """

    tile: Tile
    height: int
    width: int
    areas: NDArray[np.int64]
    valid: int
    colour: NDArray[np.float64]
    boxes: Boxes
    shift: Shift | None

    @property
    def pixels(self) -> int:
        """Return height x width."""
        return self.height * self.width

    @property
    def fraction(self) -> float:
        """Return the share of the image that is labelled as building."""
        return int(self.areas.sum()) / self.pixels


@dataclass(frozen=True)
class Survey:
    """The facts of all tiles, and of those whose labels are suspicious, the worst first."""

    tiles: Sequence[Facts]

    @property
    def empty(self) -> list[Facts]:
        """Return the tiles without a building, by name."""
        return sorted((of for of in self.tiles if not of.areas.size), key=lambda of: of.tile.name)

    @property
    def boxed(self) -> list[Facts]:
        """Return the tiles whose buildings are boxes: those with most in boxes first."""
        found = (of for of in self.tiles if of.boxes.suspicious)
        return sorted(found, key=lambda of: (-of.boxes.share, of.tile.name))

    @property
    def misaligned(self) -> list[tuple[Facts, Shift]]:
        """Return the tiles whose labels fit better elsewhere: those that gain most first."""
        found = ((of, of.shift) for of in self.tiles if of.shift and of.shift.suspicious)
        return sorted(found, key=lambda of: (-of[1].gain, of[0].tile.name))


def survey(tiles: Sequence[Tile], *, progress: bool = False) -> Survey:
    """Read every tile once.

    Raises:
        ValueError: no tiles, one that can't be read, or whose label has another size.
        OSError: a file is missing.
    """
    if not tiles:
        raise ValueError("there are no tiles to explore")
    return Survey(
        [
            study(tile, *_read(tile))
            for tile in progress_bar(tiles, desc="exploring", unit="tile", disable=not progress)
        ]
    )


def _read(tile: Tile) -> tuple[Image, Label]:
    """Read a tile; whatever is wrong with it, say which one it is."""
    try:
        return tile.read()
    except (ValueError, RooftraceError) as error:
        raise ValueError(f"tile {tile.name}: {error}") from error


def study(tile: Tile, image: Image, label: Label) -> Facts:
    """Reduce an image and its label, bool (H, W), to the figures that are kept of them."""
    valid = np.ones(label.shape, np.bool_) if image.valid is None else image.valid
    number = int(np.count_nonzero(valid))
    mean, std = (of.ravel() for of in cv2.meanStdDev(image.pixels, mask=valid.view(np.uint8)))
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(label.view(np.uint8), connectivity=4)
    components = np.asarray(stats[1:], np.int32)
    return Facts(
        tile=tile,
        height=image.height,
        width=image.width,
        areas=components[:, cv2.CC_STAT_AREA].astype(np.int64),
        valid=number,
        colour=number * np.array([mean, mean**2 + std**2]),
        boxes=find_boxes(np.asarray(numbered, np.int32), components),
        shift=best_shift(image.pixels, label),
    )
