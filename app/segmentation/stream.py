"""A segmented image on its way to a writer: bands of rows, and the buildings that end in them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InferenceError
from ..imaging.image import RowSource
from .cascade import CascadeCount
from .plan import Plan

Cancelled = Callable[[], None]
"""Called before every batch of patches, band and building; stops the work by raising."""

Advanced = Callable[[], None]
"""Called after every window of an image, for a bar that moves."""


_NOTHING_VALID = (
    "No pixel of the image is valid: it is transparent, nodata or unwritten all over, and holds no "
    "building."
)


def never() -> None:
    """Do nothing: a `Cancelled` that never stops the work, and an `Advanced` that shows nothing."""


@dataclass(frozen=True, eq=False)
class Building:
    """A connected component of a mask, in pixels of the image.

    `runs` is int32 (n, 3): a row, the first column of a run in it, and the column after its last;
    in ascending order. `confidence` is the mean probability over its pixels, `agreement` 1 less the
    mean disagreement of the members. `is_part`: it lies on a seam, and may go on in another image.
    """

    runs: NDArray[np.int32]
    confidence: float
    agreement: float
    is_part: bool = False

    @cached_property
    def pixels(self) -> int:
        """Number of pixels."""
        return int((self.runs[:, 2] - self.runs[:, 1]).sum(dtype=np.int64))

    @cached_property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that it spans."""
        rows, starts, stops = self.runs.T
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(starts.min()), int(stops.max()))

    def crop(self) -> NDArray[np.bool_]:
        """Return the building alone, bool, as large as its window."""
        rows, cols = self.window
        # Up by one where a run begins, down where it ends; the sum along a row is the mask.
        steps = np.zeros((rows.stop - rows.start, cols.stop - cols.start + 1), np.int8)
        row, start, stop = (self.runs - (rows.start, cols.start, cols.start)).T
        steps[row, start] = 1
        steps[row, stop] = -1
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].view(np.bool_)


@dataclass(frozen=True, eq=False)
class Band:
    """Finished rows of a segmentation, from image row `row` on.

    `probability` is float32 (h, W) in [0, 1]: the weighted mean, or the share of members that
    voted for building. `mask` is bool (h, W). `valid` is bool (h, W), None where every pixel is
    valid; elsewhere the others are 0 and False. `disagreement` is float32 (h, W), the largest less
    the smallest probability of the members, None unless the plan asks for it.

    `seam` is bool (h, W), True beside pixels of another image, where buildings may go on; None
    where there is no other.

    `building_count` buildings have ended since the band before; `buildings` are these, where the
    plan asks for them.
    """

    row: int
    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    valid: NDArray[np.bool_] | None = None
    disagreement: NDArray[np.float32] | None = None
    seam: NDArray[np.bool_] | None = None
    building_count: int = 0
    buildings: tuple[Building, ...] = ()

    @property
    def rows(self) -> slice:
        """Rows of the image that the band holds."""
        return slice(self.row, self.row + len(self.mask))


@dataclass(eq=False)
class SegmentedStream:
    """The bands of one image, from the first row to the last; they can be read once.

    A writer takes bands or buildings as they come and holds neither, so memory grows with the
    image's width and not with its height. Counts are complete when the last band has been read.

    `name` is that of the image in results: its file's. `cascade_count` counts the patches that the
    cascade spared; None without a cascade.
    """

    plan: Plan
    image: RowSource
    bands: Iterable[Band]
    name: str = ""
    cascade_count: CascadeCount | None = None
    cancelled: Cancelled = never
    building_count: int = field(default=0, init=False)
    building_pixels: int = field(default=0, init=False)
    valid_pixels: int = field(default=0, init=False)
    _area: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Band]:
        ended = 0
        for band in self.bands:
            self.cancelled()
            valid = band.mask.size if band.valid is None else np.count_nonzero(band.valid)
            self.valid_pixels += int(valid)
            pixels = np.count_nonzero(band.mask, axis=1)
            self.building_pixels += int(pixels.sum())
            if self.plan.row_areas is not None:
                self._area += float(pixels @ self.plan.row_areas[band.rows])
            self.building_count += band.building_count
            ended = band.rows.stop
            yield band
        if ended < self.image.height:  # else what a writer has not been given would be anything
            raise InferenceError(f"the bands end at row {ended} of {self.image.height}")

    def buildings(self) -> Iterator[Building]:
        """Read the bands, and yield each building once its last row has come.

        They come in the order of their last rows and of the first column there, wherever the rows
        were cut into bands.
        """
        assert self.plan.buildings, "the plan asks for masks alone"
        for band in self:
            for building in band.buildings:
                self.cancelled()
                yield building

    def assemble(self, draw: Callable[[Band], NDArray[Any]]) -> NDArray[Any]:
        """Read the bands, and put what `draw` makes of each, (h, W), into one array (H, W)."""
        whole: NDArray[Any] | None = None
        for band in self:
            drawn = draw(band)
            if whole is None:
                whole = np.empty((self.image.height, self.image.width), drawn.dtype)
            whole[band.rows] = drawn
        assert whole is not None, "an image has rows"
        return whole

    @property
    def notices(self) -> tuple[str, ...]:
        """The plan's, and one if no pixel is valid; right only after the last band."""
        return (*self.plan.notices, *(() if self.valid_pixels else (_NOTHING_VALID,)))

    @property
    def building_fraction(self) -> float:
        """Share of building among the valid pixels; 0 when none is valid."""
        return self.building_pixels / self.valid_pixels if self.valid_pixels else 0.0

    @property
    def building_area(self) -> float | None:
        """Area of the building pixels in m², rounded to 0.01; None where the GSD is not known."""
        return None if self.plan.row_areas is None else round(self._area, 2)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A whole segmented image: the arrays are those of `Band`, (H, W)."""

    plan: Plan
    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    disagreement: NDArray[np.float32] | None
    buildings: tuple[Building, ...]
    building_count: int


def collect(stream: SegmentedStream) -> Segmentation:
    """Read a stream to its end, for those who need a whole image as arrays."""
    size = stream.plan.size
    probability, mask = np.empty(size, np.float32), np.empty(size, np.bool_)
    disagreement = np.empty(size, np.float32) if stream.plan.disagreement else None
    buildings: list[Building] = []
    for band in stream:
        probability[band.rows], mask[band.rows] = band.probability, band.mask
        if disagreement is not None:
            disagreement[band.rows] = band.disagreement
        buildings += band.buildings
    return Segmentation(
        stream.plan, probability, mask, disagreement, tuple(buildings), stream.building_count
    )
