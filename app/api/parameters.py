"""Query parameters, and how a result format is chosen. An unknown name or value is a 422."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import NotAcceptable
from app.imaging.georeference import MAX_GSD, MIN_GSD
from app.imaging.scaling import Limits, parse_rescale
from app.imaging.sharpness import MAX_SHARPEN
from app.outputs.findings import OutputOptions, Rectify, parse_bands
from app.outputs.formats import FORMATS
from app.outputs.rle import PixelOrder
from app.segmentation.options import Combine, Resample, SegmentOptions, Unsure, UseGate
from app.segmentation.tta import Tta
from app.segmentation.windows import MAX_OVERLAP

FormatName = Literal["png", "probability", "overlay", "rle", "coco", "geojson", "geotiff"]
BatchFormatName = Literal["json", "ndjson", "csv"]

RESULT_TYPES = {f.name: f.media_type for f in FORMATS.values() if f.encode is not None}
BATCH_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
"""Media types by format; of those that a client likes equally, the first is its default."""


class Options(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    threshold: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="Probability at and above which a pixel is building. "
            "Default: the manifest's.",
            examples=[0.5],
        ),
    ] = None
    overlap: Annotated[
        float,
        Field(
            ge=0,
            le=MAX_OVERLAP,
            description="Share of a patch that neighbours share; overlapping probabilities are "
            "blended so that no seam shows. The cost grows with 1 / (1 - overlap)².",
            examples=[0.5],
        ),
    ] = SegmentOptions.overlap
    tta: Annotated[
        Tta,
        Field(
            description="Test-time augmentation, averaged: `flips` costs 4 times as much, `d4` 8.",
            examples=["flips"],
        ),
    ] = SegmentOptions.tta
    models: Annotated[
        str | None,
        Field(
            description="Comma-separated member names, as `GET /models` lists them. Default: all. "
            "Their weights are renormalised.",
            examples=["unet,pspnet"],
        ),
    ] = None
    combine: Annotated[
        Combine,
        Field(
            description="Weighted mean of the probabilities, or strict majority of the "
            "thresholded members.",
            examples=["vote"],
        ),
    ] = SegmentOptions.combine
    rescale: Annotated[
        str | None,
        Field(
            description="`low,high`, in the file's own samples: what becomes 0 and what 255 before "
            "the models look, or three such pairs for red, green and blue. Default: 8-bit samples "
            "as they are unless the image has a colour cast or little contrast, which is then "
            "corrected; deeper ones by the 2nd and 98th percentile of each band. `X-Notice` tells "
            "what was done.",
            examples=["0,3000"],
        ),
    ] = None
    sharpen: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_SHARPEN,
            description="By how many per cent the image is sharpened before the models look, by "
            "unsharp masking with a Gaussian of 1.5 pixels. Default: 0, unless the image is soft, "
            "which `X-Notice` tells, with how many per cent were taken.",
            examples=[0],
        ),
    ] = None
    gsd: Annotated[
        float | None,
        Field(
            ge=MIN_GSD,
            le=MAX_GSD,
            description="Metres per pixel of the upload. Default: what its georeference says.",
            examples=[0.3],
        ),
    ] = None
    resample: Annotated[
        Resample,
        Field(
            description="`auto`: with a known GSD, run the models at the GSD that they were "
            "trained at, and bring the result back to the upload's grid. `off`: as it is.",
            examples=["off"],
        ),
    ] = SegmentOptions.resample
    min_area: Annotated[
        float,
        Field(
            ge=0,
            description="Drop connected components smaller than this: in m² when the GSD is "
            "known, else in pixels.",
            examples=[20],
        ),
    ] = SegmentOptions.min_area
    unsure: Annotated[
        Unsure,
        Field(
            description="`drop`: a component whose mean probability lies below the bundle's "
            "`threshold.sure`, if it has one, is no building: its probabilities are held just "
            "below the threshold. `keep`: they stay, as they do with `models` and `combine=vote`.",
            examples=["keep"],
        ),
    ] = SegmentOptions.unsure
    gate: Annotated[
        UseGate,
        Field(
            description="`on`: where only a mask is asked for, one model alone clears patches in "
            "which it sees nothing, if the bundle was fitted a gate: faster, at the cost of 0.1 % "
            "of the building pixels at most where it was fitted. `X-Gate` tells. `off`: all models "
            "decide every pixel. It is off of its own accord for probabilities and what shows "
            "them, with `models`, `tta` or `combine=vote`, and below the bundle's threshold.",
            examples=["off"],
        ),
    ] = SegmentOptions.gate
    order: Annotated[
        PixelOrder,
        Field(
            description="Pixel order of run-length encodings: along rows, or down columns.",
            examples=["column"],
        ),
    ] = "row"

    def limits(self) -> Limits | None:
        """Return what `rescale` says.

        Raises:
            InvalidOption: as `parse_rescale`.
        """
        return None if self.rescale is None else parse_rescale(self.rescale)

    def segment_options(self) -> SegmentOptions:
        """Return what the segmenter needs of it."""
        members = None if self.models is None else tuple(n.strip() for n in self.models.split(","))
        return SegmentOptions(
            threshold=self.threshold,
            overlap=self.overlap,
            tta=self.tta,
            members=members,
            combine=self.combine,
            gsd=self.gsd,
            resample=self.resample,
            min_area=self.min_area,
            unsure=self.unsure,
            gate=self.gate,
        )

    def output_options(self) -> OutputOptions:
        """Return what the result's writer needs of it."""
        return OutputOptions(order=self.order)


class SegmentParameters(Options):
    """Query parameters of `POST /segment`."""

    format: Annotated[
        FormatName | None,
        Field(
            description="The result: "
            + "; ".join(f"`{name}`: {FORMATS[name].description}" for name in RESULT_TYPES)
            + ". Default: of what `Accept` allows, the most preferred that the upload can have; "
            "else `png`.",
            examples=["overlay"],
        ),
    ] = None
    simplify: Annotated[
        float,
        Field(
            ge=0,
            description="How far a simplified outline of `geojson` may leave the edges of the "
            "pixels: metres when the GSD is known, else pixels. No building is dropped.",
            examples=[0.5],
        ),
    ] = OutputOptions.simplify
    rectify: Annotated[
        Rectify,
        Field(
            description="`orthogonal`: square up the corners of `geojson` outlines; a building "
            "stays as it is where that would take its IoU with its pixels below 0.9.",
            examples=["orthogonal"],
        ),
    ] = OutputOptions.rectify
    bands: Annotated[
        str,
        Field(
            description="Comma-separated bands of `geotiff`: `mask`, then `probability`, "
            "`disagreement` or both. These two are stored as 0 to 250, with a scale of 1 / 250.",
            examples=["mask,probability,disagreement"],
        ),
    ] = ",".join(OutputOptions.bands)

    def output_options(self) -> OutputOptions:
        """Return what the result's writer needs of it."""
        return OutputOptions(
            order=self.order,
            simplify=self.simplify,
            rectify=self.rectify,
            bands=parse_bands(self.bands),
        )


class BatchParameters(Options):
    """Query parameters of `POST /segment/rle`."""

    format: Annotated[
        BatchFormatName | None,
        Field(
            description="`json`: one object; `ndjson`: a line for each file as soon as it is "
            "ready; `csv`: `img_id,mask_rle`, `-1` for an empty mask. Default: what `Accept` asks "
            "for, else `json`.",
            examples=["csv"],
        ),
    ] = None


def choose_formats(name: str | None, accept: str, media_types: Mapping[str, str]) -> list[str]:
    """Return the format that was named, else those that `Accept` allows, the preferred one first.

    Of those that it prefers equally, the first of `media_types` comes first.
    Source: RFC 9110, section 12.5.1 (media ranges and weights).

    Raises:
        NotAcceptable: no format satisfies `Accept`.
    """
    if name is not None:
        return [name]
    weights = {name: _weight(accept or "*/*", of_type) for name, of_type in media_types.items()}
    allowed = [name for name in media_types if weights[name] > 0]
    if not allowed:
        offered = ", ".join(dict.fromkeys(media_types.values()))
        raise NotAcceptable(
            f"Accept: {accept[:200]!r} allows none of {offered}. Send one of these."
        )
    return sorted(allowed, key=lambda name: -weights[name])


def _weight(accept: str, media_type: str) -> float:
    """Return the weight that the most specific matching media range gives to a media type.

    Parameters of the media type itself, such as a GeoTIFF's, need not be asked for.
    """
    media_type = media_type.partition(";")[0]
    found = (-1, 0.0)
    for entry in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in entry.split(";"))
        specificity = {"*/*": 0, f"{media_type.split('/')[0]}/*": 1, media_type: 2}.get(media_range)
        if specificity is not None and specificity >= found[0]:
            found = (specificity, _quality(parameters))
    return found[1]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
