"""Bodies that the interface documents."""

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

    model: str = Field(description="version of the bundle", examples=["rooftrace-8-0123456789ab"])
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

    name: str = Field(examples=["rooftrace-8"])
    version: str = Field(examples=["rooftrace-8-0123456789ab"])
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


class Health(BaseModel):
    """The state of the service."""

    status: Literal["live", "ready"]


class Readiness(Health):
    """Ready, and on what."""

    model: str = Field(examples=["rooftrace-8-0123456789ab"])
    execution_providers: list[str] = Field(examples=[["CPUExecutionProvider"]])
    fallback: str | None
    waiting: int = Field(description="requests that wait for their turn", examples=[0])
