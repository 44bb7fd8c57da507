"""What was found in an image, as writers take it: bands of rows, and what is known of them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import numpy as np

from app import __version__
from app.errors import InvalidOption
from app.imaging.georeference import Gsd
from app.imaging.image import RowSource
from app.outputs.rle import PixelOrder
from app.segmentation.buildings import Building, find_components
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Checkpoint, Segmenter, keep_going, used_gsd
from app.segmentation.stream import SegmentedBand

Rectify = Literal["none", "orthogonal"]
RasterBand = Literal["mask", "probability", "disagreement"]


@dataclass(frozen=True)
class OutputOptions:
    """How a client wants its result written; parsed at the edge, unchanged from there on.

    Raises:
        InvalidOption: a value out of range.
    """

    order: PixelOrder = "row"
    """Pixel order of run-length encodings."""
    simplify: float = 0.0
    """How far a simplified outline may leave the pixels' edges: metres where the GSD is known,
    else pixels."""
    rectify: Rectify = "none"
    """Square up the corners of outlines, where that keeps the building's shape."""
    bands: tuple[RasterBand, ...] = ("mask",)
    """What a GeoTIFF holds, in this order; the mask comes first."""

    def __post_init__(self) -> None:
        if not (self.simplify >= 0 and math.isfinite(self.simplify)):
            raise InvalidOption(f"simplify must be 0 or more, got {self.simplify}")
        for name, value, choices in (
            ("order", self.order, get_args(PixelOrder)),
            ("rectify", self.rectify, get_args(Rectify)),
        ):
            if value not in choices:
                raise InvalidOption(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.bands[:1] != ("mask",) or len(set(self.bands)) < len(self.bands):
            raise InvalidOption(
                "bands must begin with mask and name each once, "
                f"got {','.join(self.bands) or 'none'}"
            )


def parse_bands(text: str) -> tuple[RasterBand, ...]:
    """Read comma-separated names of bands.

    Raises:
        InvalidOption: one that there isn't.
    """
    known = {str(name): name for name in get_args(RasterBand)}
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise InvalidOption(f"bands must be among {', '.join(known)}, got {', '.join(unknown)}")
    return tuple(known[name] for name in names)


@dataclass(frozen=True)
class Provenance:
    """How a result came about: the same words in every format that can carry them."""

    software: str
    model: str
    """The bundle's version, which holds a digest of its weights."""
    threshold: float
    weights: dict[str, float]
    """Of each member that voted; they sum to 1."""
    combine: str
    sure: float | None
    """The mean probability that each building has at least; None: no more than the threshold."""
    gsd: float | None
    """Metres per pixel that the image was taken to have; None where that is not known."""
    gate: str | None
    """Which member cleared patches alone, below which probability, such as `deeplabv3plus<0.2`;
    None where all members decided every pixel."""

    def fields(self) -> dict[str, object]:
        """Return everything by name, for JSON."""
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """Return everything as text, for the metadata of an image file."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return {
            "Software": self.software,
            "rooftrace_model": self.model,
            "rooftrace_threshold": f"{self.threshold:g}",
            "rooftrace_weights": weights,
            "rooftrace_combine": self.combine,
            "rooftrace_sure": "off" if self.sure is None else f"{self.sure:g}",
            "rooftrace_gsd": "unknown" if self.gsd is None else f"{self.gsd:.6g} m",
            "rooftrace_gate": self.gate or "off",
        }


def provenance(
    segmenter: Segmenter, image: RowSource, options: SegmentOptions, *, mask_only: bool
) -> Provenance:
    """Say how a segmentation of an image comes about, of which perhaps only the mask is shown.

    Raises:
        InvalidOption: an option that this bundle can't honour.
    """
    manifest, gsd = segmenter.manifest, used_gsd(image, options)
    chosen, gating = segmenter.chosen_members(options), segmenter.gating(options)
    weights = {member.name: member.weight for member in manifest.members if member.name in chosen}
    if options.combine == "vote":
        weights = dict.fromkeys(weights, 1.0)
    total = math.fsum(weights.values())
    return Provenance(
        software=f"rooftrace {__version__}",
        model=manifest.version,
        threshold=manifest.threshold.value if options.threshold is None else options.threshold,
        weights={name: round(weight / total, 6) for name, weight in weights.items()},
        combine=options.combine,
        sure=segmenter.sure(options),
        gsd=math.sqrt(math.prod(gsd)) if gsd else None,
        gate=gating.rule if gating and mask_only else None,
    )


@dataclass
class Tally:
    """Counts that are complete when the last building has been written."""

    buildings: int = 0
    building_pixels: int = 0
    valid_pixels: int = 0


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Findings:
    """Bands of a segmented image on their way to a writer; they are read once.

    A writer takes rows or buildings as they come and holds neither, so memory grows with the
    image's width and not with its height. Components smaller than `min_pixels` are in the bands
    still, and no building. `gsd` is what the image was taken to have, down and across, in metres
    per pixel, where that is known. `notices` is what the client should know, ASCII, one sentence
    each.
    """

    filename: str
    image: RowSource
    bands: Iterable[SegmentedBand]
    provenance: Provenance
    min_pixels: float = 0.0
    gsd: Gsd | None = None
    output: OutputOptions = OutputOptions()
    notices: tuple[str, ...] = ()
    checkpoint: Checkpoint = keep_going
    tally: Tally = field(default_factory=Tally)

    def buildings(
        self,
        *,
        on_band: Callable[[SegmentedBand], None] = _ignore,
        on_small: Callable[[Building], None] = _ignore,
    ) -> Iterator[Building]:
        """Read the bands, and give each building as soon as its last row has come.

        `on_band` is called with each band, before a component that ends in it; `on_small` with each
        component of fewer than `min_pixels`, which is no building. `tally` counts along.

        Raises:
            Exception: whatever `bands` or `checkpoint` raise.
        """

        def bands() -> Iterator[SegmentedBand]:
            for band in self.bands:
                valid = band.mask.size if band.valid is None else np.count_nonzero(band.valid)
                self.tally.valid_pixels += int(valid)
                on_band(band)
                yield band

        for component in find_components(bands()):
            self.checkpoint()
            if component.pixels < self.min_pixels:
                on_small(component)
                continue
            self.tally.buildings += 1
            self.tally.building_pixels += component.pixels
            yield component

    def totals(self) -> dict[str, object]:
        """Return the count and the area of the buildings so far, as JSON results carry them."""
        area = building_area(self.tally.building_pixels, self.gsd)
        return {"building_count": self.tally.buildings, "building_area_m2": area}


def building_area(pixels: int, gsd: Gsd | None) -> float | None:
    """Return the area of so many pixels, each as large as in the image's middle, in m², rounded.

    None where the GSD is not known.
    """
    return None if gsd is None else round(pixels * math.prod(gsd), 2)
