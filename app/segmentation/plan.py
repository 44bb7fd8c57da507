"""One image's plan: everything that is decided before its first patch is predicted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..bundle.cascade import CascadeRule
from ..bundle.manifest import GsdRange, Manifest
from ..errors import InvalidOption
from ..imaging.georeference import Gsd, mean_gsd
from ..imaging.image import RowSource
from .cascade import CascadeCount
from .options import Combine, Options, PixelOrder, RasterBand, Rectify
from .resampling import Size, seen_size
from .tta import ORIENTATIONS, Orientation
from .windows import WindowGrid, plan_windows

_GSD_DIFFERS = 1.05
"""Ratio of a client's GSD and the file's from which on their areas differ by a tenth."""
_LEAST_THRESHOLD = float(np.finfo(np.float32).tiny)
"""Probabilities are float32: a lower threshold would be 0, which invalid pixels reach."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Every decision about one image, so that nothing later reads manifest or options.

    `members` are in the manifest's order, whatever the client's: sums then run in one order, and
    equal choices give equal bits. Their `weights` sum to 1.
    """

    model: str
    """Version of the bundle."""
    height: int
    width: int
    grid: WindowGrid
    """Windows over the image as the members see it, which may have another size."""
    orientations: tuple[Orientation, ...]
    """Orientations in which each patch is predicted."""
    members: tuple[str, ...]
    weights: tuple[float, ...]
    combine: Combine
    threshold: float
    """Probability at and above which a pixel is building; of each member with `combine=vote`."""
    min_confidence: float
    """Mean probability below which a connected component is no building; 0: all are."""
    min_area: float
    """Area below which a connected component is no building: m² with `row_areas`, else pixels."""
    row_areas: NDArray[np.float64] | None
    """Area of a pixel of each row on the ground, float64 (height,), in m²; None if not known."""
    cascade: CascadeRule | None
    """When some of the members decide a patch; None: never."""
    gsd: Gsd | None
    """GSD down and across, in metres per pixel, from client or file; None if not known."""
    buildings: bool
    """Whether the format needs each building, not the mask alone."""
    order: PixelOrder
    simplify: float
    rectify: Rectify
    bands: tuple[RasterBand, ...]
    transparent: bool
    """Whether a GeoTIFF gets an alpha band, 0 where no building is."""
    notices: tuple[str, ...]
    """Facts about its own input that the client should know: ASCII, one sentence each."""

    @classmethod
    def resolve(
        cls,
        manifest: Manifest,
        options: Options,
        image: RowSource,
        *,
        buildings: bool = False,
        notices: tuple[str, ...] = (),
    ) -> Self:
        """Decide everything about one image.

        `buildings` asks for each building beside the mask. `notices` are those of the chosen
        format; the image's and the plan's own come with them.

        Raises:
            InvalidOption: a member that the bundle does not have.
        """
        members = _choose_members(manifest, options)
        chosen = [member.weight for member in manifest.members if member.name in members]
        if options.combine == "vote":
            chosen = [1.0] * len(chosen)
        threshold = manifest.threshold.value if options.threshold is None else options.threshold
        threshold = max(threshold, _LEAST_THRESHOLD)
        gsd = image.gsd if options.gsd is None else (options.gsd, options.gsd)
        row_areas, area_notices = _areas(options, image, gsd)
        seen = seen_size(image.height, image.width, _scale(manifest.gsd, gsd, options))
        return cls(
            model=manifest.version,
            height=image.height,
            width=image.width,
            grid=plan_windows(*seen, manifest.patch_size, options.overlap),
            orientations=ORIENTATIONS[options.tta],
            members=members,
            weights=tuple(weight / math.fsum(chosen) for weight in chosen),
            combine=options.combine,
            threshold=threshold,
            min_confidence=_min_confidence(manifest, options, threshold),
            min_area=options.min_area,
            row_areas=row_areas,
            cascade=_cascade(manifest, options, threshold),
            gsd=gsd,
            buildings=buildings,
            order=options.order,
            simplify=options.simplify,
            rectify=options.rectify,
            bands=options.raster_bands,
            transparent=options.background == "transparent",
            notices=(
                *image.notices,
                *_gsd_notices(manifest.gsd, gsd, image.gsd),
                *area_notices,
                *notices,
            ),
        )

    @classmethod
    def check(cls, manifest: Manifest, options: Options) -> None:
        """Check the options that need no image.

        Raises:
            InvalidOption: a member that the bundle does not have.
        """
        _choose_members(manifest, options)

    def count(self) -> CascadeCount | None:
        """Return a new count of the patches that the cascade spares; None without a cascade."""
        return CascadeCount(self.cascade.members) if self.cascade else None

    @property
    def weight_of(self) -> dict[str, float]:
        """The weight of each member."""
        return dict(zip(self.members, self.weights, strict=True))

    @property
    def size(self) -> Size:
        """Height and width of the image, in pixels."""
        return self.height, self.width

    @property
    def seen(self) -> Size:
        """Height and width at which the members see the image, in pixels."""
        return self.grid.height, self.grid.width

    @property
    def disagreement(self) -> bool:
        """Whether the result shows how far the members disagree."""
        return self.buildings or "disagreement" in self.bands


def _choose_members(manifest: Manifest, options: Options) -> tuple[str, ...]:
    """Return the members that vote, in the manifest's order.

    Raises:
        InvalidOption: a member that the bundle does not have.
    """
    known = tuple(member.name for member in manifest.members)
    chosen = known if options.members is None else options.members
    if unknown := [name for name in chosen if name not in known]:
        raise InvalidOption(f"models must be among {', '.join(known)}, got {', '.join(unknown)}.")
    return tuple(name for name in known if name in chosen)


def _is_fitted(manifest: Manifest, options: Options) -> bool:
    """Tell whether masks are made as they were when the manifest's numbers were fitted."""
    everyone = len(_choose_members(manifest, options)) == len(manifest.members)
    return everyone and options.combine == "average"


def _min_confidence(manifest: Manifest, options: Options, threshold: float) -> float:
    if options.min_confidence is not None:
        return options.min_confidence
    # A lower threshold asks for more buildings: it grows components, and lowers their means.
    fitted = _is_fitted(manifest, options) and threshold >= manifest.threshold.value
    return manifest.threshold.min_confidence if fitted else 0.0


def _cascade(manifest: Manifest, options: Options, threshold: float) -> CascadeRule | None:
    fitted = manifest.cascade
    if fitted is None or options.cascade == "off" or options.tta != "none":
        return None
    low, high = fitted.doubt
    return fitted if _is_fitted(manifest, options) and low <= threshold <= high else None


def _scale(trained: GsdRange, gsd: Gsd | None, options: Options) -> tuple[float, float]:
    """Return how many pixels the members see per pixel of the image, down and across."""
    if gsd is None or options.resample == "off" or trained.reference is None:
        return 1.0, 1.0
    shown = trained.shown(mean_gsd(gsd))
    return gsd[0] / shown, gsd[1] / shown


def _areas(
    options: Options, image: RowSource, gsd: Gsd | None
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return `Plan.row_areas` and its notices."""
    if options.gsd is not None or image.georeference is None:
        return np.full(image.height, math.prod(gsd)) if gsd else None, ()
    notice = image.georeference.area_notice(image.height, image.width)
    areas = image.georeference.row_areas(image.height, image.width)
    return areas, () if notice is None else (notice,)


def _gsd_notices(trained: GsdRange, gsd: Gsd | None, of_file: Gsd | None) -> Iterator[str]:
    if gsd is None:
        return
    mean = mean_gsd(gsd)
    if not trained.knows(mean):
        yield (
            f"The GSD of {mean:.3g} m lies outside the {trained.min:g} to {trained.max:g} m "
            "that the models were trained at: expect a poorer mask."
        )
    own = mean_gsd(of_file or gsd)
    if not 1 / _GSD_DIFFERS <= mean / own <= _GSD_DIFFERS:
        yield (
            f"gsd={mean:.3g} was used, but the georeference says {own:.3g} m per pixel: min_area, "
            "simplify and total areas follow gsd, and the areas of outlines the georeference."
        )
