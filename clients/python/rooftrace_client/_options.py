"""The service's parameters, as keyword arguments."""

from typing import Literal, TypeAlias, TypedDict

Format: TypeAlias = Literal[
    "png", "probability", "disagreement", "overlay", "rle", "coco", "geojson", "geotiff"
]
JobFormat: TypeAlias = Format | Literal["gpkg", "flatgeobuf", "geoparquet"]


class ResultOptions(TypedDict, total=False):
    """What may change from one result of a job to the next.

    The service's reference describes each. One that is left out, or None, has the service's own
    default, or for a job's result that of the job.
    """

    threshold: float | None
    min_confidence: float | None
    min_area: float | None
    order: Literal["row", "column"] | None
    simplify: float | None
    rectify: Literal["none", "orthogonal"] | None
    bands: str | list[str] | None
    background: Literal["transparent", "opaque"] | None


class Options(ResultOptions, total=False):
    """The parameters of `POST /segment` but `format`."""

    overlap: float | None
    tta: Literal["none", "flips", "d4"] | None
    models: str | list[str] | None
    combine: Literal["average", "vote"] | None
    cascade: Literal["on", "off"] | None
    gsd: float | None
    resample: Literal["auto", "off"] | None
    rgb: str | tuple[int, int, int] | None
    rescale: str | tuple[float, ...] | None
    sharpen: float | None
