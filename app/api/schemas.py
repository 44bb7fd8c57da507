"""Response bodies, as the OpenAPI document shows them."""

from typing import Literal

from pydantic import BaseModel, Field

from ..bundle.cascade import Cascade
from ..bundle.manifest import GsdRange, Threshold
from ..outputs.rle import RleResult

EXAMPLE_ID = "2f5e8d3c-3f4b-4c7e-9a51-0a8a2f6f1c11"
EXAMPLE_VERSION = "rooftrace-11-0123456789ab"


class Problem(BaseModel):
    """An error. Source: RFC 9457, Problem Details for HTTP APIs."""

    type: str = Field(
        description="names the kind of problem", examples=["urn:rooftrace:damaged-image"]
    )
    title: str = Field(description="the kind of problem in words", examples=["Damaged image"])
    status: int = Field(description="the response's HTTP status", examples=[422])
    detail: str = Field(
        description="what was wrong, and what would be right",
        examples=["The PNG ends before its pixels do. Send the whole file."],
    )
    instance: str = Field(
        description="this occurrence: the id that `X-Request-Id` carries too",
        examples=[f"urn:rooftrace:request:{EXAMPLE_ID}"],
    )


class FileProblem(BaseModel):
    """A file of a batch that could not be segmented; the others are not affected."""

    filename: str = Field(description="as the client sent it", examples=["broken.png"])
    error: Problem = Field(description="why it was not segmented")


class BatchResult(BaseModel):
    """The results of a batch, in upload order."""

    model: str = Field(description="version of the bundle", examples=[EXAMPLE_VERSION])
    results: list[RleResult | FileProblem] = Field(description="a result or a problem for each")


class MemberInfo(BaseModel):
    """One network of the loaded ensemble."""

    name: str = Field(description="as the parameter `models` takes it", examples=["unet"])
    architecture: str = Field(description="kind of the network", examples=["Unet"])
    encoder: str = Field(description="the network's feature extractor", examples=["resnet50"])
    weight: float = Field(description="share in the weighted mean", examples=[0.5])
    sha256: str = Field(
        description="digest of the ONNX file",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    execution_provider: str = Field(
        description="runtime and precision that it really runs in", examples=["OpenVINO CPU int8"]
    )


class ModelsInfo(BaseModel):
    """The loaded ensemble."""

    name: str = Field(description="name of the bundle", examples=["rooftrace-11"])
    version: str = Field(
        description="the name and a digest of the manifest", examples=[EXAMPLE_VERSION]
    )
    patch_size: int = Field(description="side of a patch in pixels", examples=[224])
    threshold: Threshold = Field(description="defaults of `threshold` and `min_confidence`")
    gsd: GsdRange = Field(description="GSD that the members were trained at")
    cascade: Cascade | None = Field(
        description="when some of the members decide a patch; null without a cascade"
    )
    members: list[MemberInfo] = Field(description="the networks of the ensemble")
    fallback: str | None = Field(
        description="why the CPU is used although there is a GPU; null when nothing fell back"
    )


class TileSourceInfo(BaseModel):
    """A source of live tiles."""

    name: str = Field(description="as in the addresses of its tiles", examples=["city"])
    attribution: str = Field(description="text that maps must show", examples=["City of Joplin"])
    tilejson: str = Field(description="relative reference to its TileJSON", examples=["tiles/city"])


class TileSources(BaseModel):
    """The sources that the operator has named."""

    sources: list[TileSourceInfo] = Field(description="empty without the setting `tile_sources`")


class TileJson(BaseModel):
    """A source for map clients. Source: TileJSON 3.0.0 of Mapbox."""

    tilejson: Literal["3.0.0"] = "3.0.0"
    name: str = Field(description="title of the layer", examples=["Buildings in city"])
    attribution: str = Field(description="text that maps must show", examples=["City of Joplin"])
    scheme: Literal["xyz"] = "xyz"
    tiles: list[str] = Field(
        description="absolute addresses, below the setting `public_url`, else below the address "
        "of the request",
        examples=[["https://example.org/tiles/city/{z}/{x}/{y}.png"]],
    )
    minzoom: int = Field(description="lowest zoom that works", examples=[17])
    maxzoom: int = Field(description="highest zoom that works", examples=[19])
    bounds: tuple[float, float, float, float] = Field(
        description="west, south, east, north in degrees",
        examples=[(-94.5003, 37.0663, -94.4862, 37.0776)],
    )
    center: tuple[float, float, float] = Field(
        description="longitude, latitude and zoom", examples=[(-94.4932, 37.0719, 19)]
    )


class Health(BaseModel):
    """The state of the service."""

    status: Literal["live", "ready"] = Field(
        description="live: the process lives; ready: it takes work"
    )


class Readiness(Health):
    """The state of a service that is ready."""

    model: str = Field(description="version of the bundle", examples=[EXAMPLE_VERSION])
    execution_providers: list[str] = Field(
        description="runtimes and precisions in use", examples=[["OpenVINO CPU int8"]]
    )
    fallback: str | None = Field(
        description="why the CPU is used although there is a GPU; null when nothing fell back"
    )
    jobs: Literal["ready", "away"] = Field(
        description="away: the database of jobs can't be reached, and jobs are a 503; requests "
        "are served all the same"
    )
    waiting: int = Field(description="requests that wait for their turn", examples=[0])
