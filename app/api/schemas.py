"""Response bodies, as the OpenAPI document shows them."""

from typing import Literal

from pydantic import BaseModel, Field

from ..bundle.manifest import Cascade, GsdRange, Threshold
from ..outputs.mask_rle import RleResult


class Problem(BaseModel):
    """An error. Source: RFC 9457, Problem Details for HTTP APIs."""

    type: str = Field(
        description="names the kind of problem", examples=["urn:rooftrace:damaged-image"]
    )
    title: str = Field(description="the kind of problem in words", examples=["Damaged image"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="what was wrong, and what would be right",
        examples=["The PNG ends before its pixels do. Send the whole file."],
    )
    instance: str = Field(
        description="this occurrence: the id that `X-Request-Id` carries too",
        examples=["urn:rooftrace:request:2f5e8d3c-3f4b-4c7e-9a51-0a8a2f6f1c11"],
    )


class FileProblem(BaseModel):
    """A file of a batch that could not be segmented; the others are not affected."""

    filename: str = Field(examples=["broken.png"])
    error: Problem


class BatchResult(BaseModel):
    """The results of a batch, in upload order."""

    model: str = Field(description="version of the bundle", examples=["rooftrace-9-0123456789ab"])
    results: list[RleResult | FileProblem]


class MemberInfo(BaseModel):
    """One network of the loaded ensemble."""

    name: str = Field(examples=["unet"])
    architecture: str = Field(examples=["Unet"])
    encoder: str = Field(examples=["resnet50"])
    weight: float = Field(description="share in the weighted mean", examples=[0.5])
    sha256: str = Field(
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    )
    execution_provider: str = Field(
        description="what it really runs on", examples=["CPUExecutionProvider"]
    )


class ModelsInfo(BaseModel):
    """The loaded ensemble."""

    name: str = Field(examples=["rooftrace-9"])
    version: str = Field(examples=["rooftrace-9-0123456789ab"])
    patch_size: int = Field(examples=[224])
    threshold: Threshold
    gsd: GsdRange
    cascade: Cascade | None = Field(
        description="when a member decides a patch alone; null without a cascade"
    )
    members: list[MemberInfo]
    fallback: str | None = Field(
        description="why the CPU is used although there is a GPU; null when nothing fell back"
    )


class TileSourceInfo(BaseModel):
    """A source of live tiles."""

    name: str = Field(examples=["city"])
    attribution: str = Field(description="whom maps must name", examples=["City of Joplin"])
    tilejson: str = Field(description="relative reference to its TileJSON", examples=["tiles/city"])


class TileSources(BaseModel):
    """The sources that the operator has named."""

    sources: list[TileSourceInfo]


class TileJson(BaseModel):
    """A source for map clients. Source: TileJSON 3.0.0 of Mapbox."""

    tilejson: Literal["3.0.0"] = "3.0.0"
    name: str = Field(examples=["Buildings in city"])
    attribution: str = Field(examples=["City of Joplin"])
    scheme: Literal["xyz"] = "xyz"
    tiles: list[str] = Field(
        description="absolute, as TileJSON asks for: of the setting `public_url`, else of the "
        "request's own address",
        examples=[["https://example.org/tiles/city/{z}/{x}/{y}.png"]],
    )
    minzoom: int = Field(examples=[17])
    maxzoom: int = Field(examples=[19])
    bounds: tuple[float, float, float, float] = Field(
        description="west, south, east, north in degrees",
        examples=[(-94.5003, 37.0663, -94.4862, 37.0776)],
    )
    center: tuple[float, float, float] = Field(
        description="longitude, latitude and zoom", examples=[(-94.4932, 37.0719, 19)]
    )


class Health(BaseModel):
    """The state of the service."""

    status: Literal["live", "ready"]


class Readiness(Health):
    """The state of a service that is ready."""

    model: str = Field(examples=["rooftrace-9-0123456789ab"])
    execution_providers: list[str] = Field(examples=[["CPUExecutionProvider"]])
    fallback: str | None = Field(
        description="why the CPU is used although there is a GPU; null when nothing fell back"
    )
    jobs: Literal["ready", "away"] = Field(
        description="away: the database of jobs can't be reached, and jobs are a 503; requests "
        "are served all the same"
    )
    waiting: int = Field(description="requests that wait for their turn", examples=[0])
