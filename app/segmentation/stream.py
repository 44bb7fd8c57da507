"""What a segmenter finds: the rows of a mask, and a whole one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.segmentation.cascade import Gating


@dataclass(frozen=True, eq=False)
class SegmentedBand:
    """Finished rows of a segmentation, from image row `row` on.

    `probability` is float32 (h, W) in [0, 1]: the weighted mean, or the share of members that
    voted for building. `disagreement` is float32 (h, W): the largest less the smallest probability
    of the members. `mask` is bool (h, W), `valid` too, or None where every pixel is valid. Where
    the image is invalid the others are 0 and False.
    """

    row: int
    probability: NDArray[np.float32]
    disagreement: NDArray[np.float32]
    mask: NDArray[np.bool_]
    valid: NDArray[np.bool_] | None

    @property
    def rows(self) -> slice:
        """Rows of the image that the band holds."""
        return slice(self.row, self.row + len(self.mask))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What an image was found to show: a `SegmentedBand` of all of its rows, and how it was found.

    Of `mask`, components smaller than `min_area` are gone. `disagreement` is None unless it was
    asked for. `threshold` and `members` say what was used, `notices` what the client should know,
    ASCII, one sentence each. `gating` says what the gate did; None where it was off.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    threshold: float
    members: tuple[str, ...]
    notices: tuple[str, ...] = ()
    disagreement: NDArray[np.float32] | None = None
    gating: Gating | None = None
