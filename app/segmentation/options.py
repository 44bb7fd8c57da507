"""What a client may choose about a segmentation: the options, their defaults and their ranges."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from app.errors import InvalidOption
from app.imaging.georeference import MAX_GSD, MIN_GSD
from app.segmentation.tta import Tta
from app.segmentation.windows import MAX_OVERLAP

Combine = Literal["average", "vote"]
Resample = Literal["auto", "off"]
UseGate = Literal["on", "off"]
Unsure = Literal["drop", "keep"]


@dataclass(frozen=True)
class SegmentOptions:
    """What a client may choose; parsed at the edge, unchanged from there on.

    Raises:
        InvalidOption: a value out of range.
    """

    threshold: float | None = None
    """Probability at and above which a pixel is building; None for the manifest's."""
    overlap: float = 0.25
    """Share of a patch that neighbours share, 0 to `MAX_OVERLAP`."""
    tta: Tta = "none"
    """Test-time augmentation: the mean over mirrored (`flips`) and also turned (`d4`) patches."""
    members: tuple[str, ...] | None = None
    """Which members vote, their weights renormalised; None for all."""
    combine: Combine = "average"
    """Weighted mean of the probabilities, or strict majority of the thresholded members."""
    gsd: float | None = None
    """Metres per pixel of the image; None for what the image says itself, if it does."""
    resample: Resample = "auto"
    """Show an image of known GSD to the members at the GSD that they were trained at, or `off`."""
    min_area: float = 0.0
    """Drop connected components smaller than this: in m² where the GSD is known, else pixels."""
    unsure: Unsure = "drop"
    """Drop or keep components whose mean probability lies below what the bundle calls sure."""
    gate: UseGate = "on"
    """Let the bundle's gate, if it has one, clear patches where a mask is all that is asked for."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InvalidOption(f"threshold must lie between 0 and 1, got {self.threshold}")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise InvalidOption(f"overlap must be from 0 to {MAX_OVERLAP}, got {self.overlap}")
        if not (self.min_area >= 0 and math.isfinite(self.min_area)):
            raise InvalidOption(f"min_area must be 0 or more, got {self.min_area}")
        if self.gsd is not None and not MIN_GSD <= self.gsd <= MAX_GSD:
            raise InvalidOption(
                f"gsd must be from {MIN_GSD} to {MAX_GSD:.0f} metres per pixel, got {self.gsd}"
            )
        for name, value, choices in (
            ("tta", self.tta, get_args(Tta)),
            ("combine", self.combine, get_args(Combine)),
            ("resample", self.resample, get_args(Resample)),
            ("unsure", self.unsure, get_args(Unsure)),
            ("gate", self.gate, get_args(UseGate)),
        ):
            if value not in choices:
                raise InvalidOption(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.members is not None and len(set(self.members)) < max(1, len(self.members)):
            raise InvalidOption(
                "models must name each member once and at least one, "
                f"got {', '.join(self.members) or 'none'}"
            )
