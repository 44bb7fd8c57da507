"""Bodies of OGC API - Processes. Source: OGC 18-062r2, Part 1: Core, version 1.0."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .. import __version__
from ..jobs.records import Job, Status
from ..outputs.formats import FORMATS
from ..segmentation.options import Options
from .engine import OUTPUT
from .schemas import EXAMPLE_ID
from .uploads import IMAGE_TYPES

PROCESS = "segment-buildings"

_REL = "http://www.opengis.net/def/rel/ogc/1.0/"
_CLASS = "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/"
CONFORMS_TO = [
    _CLASS + name for name in ("core", "ogc-process-description", "json", "job-list", "dismiss")
]
"""Not `oas30`: the document is OpenAPI 3.1."""


def _is_none(value: object) -> bool:
    return value is None


class Link(BaseModel):
    """A link, whose `href` is relative to the address of the answer that holds it."""

    href: str = Field(examples=[f"../jobs/{EXAMPLE_ID}/results"])
    rel: str = Field(examples=[f"{_REL}results"])
    type: str | None = Field(None, exclude_if=_is_none, examples=["application/json"])
    title: str | None = Field(None, exclude_if=_is_none, examples=["The results"])


class LandingPage(BaseModel):
    """The service, with links to its parts."""

    title: str
    description: str
    links: list[Link]


class Conformance(BaseModel):
    """The conformance classes that this service implements."""

    conformsTo: list[str] = Field(examples=[CONFORMS_TO])


class ProcessSummary(BaseModel):
    """A process, in brief."""

    id: str = Field(examples=[PROCESS])
    version: str = Field(examples=["0.2.0"])
    title: str
    description: str
    keywords: list[str]
    jobControlOptions: list[str] = Field(examples=[["sync-execute", "async-execute"]])
    outputTransmission: list[str] = Field(examples=[["value"]])
    links: list[Link]


class ProcessDescription(ProcessSummary):
    """A process, with its inputs and outputs."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


class ProcessList(BaseModel):
    """The processes that are offered."""

    processes: list[ProcessSummary]
    links: list[Link]


class OutputFormat(BaseModel):
    """The format of an output."""

    mediaType: str | None = Field(None, examples=["application/geo+json"])


class Output(BaseModel):
    """The output that a client asks for."""

    format: OutputFormat = OutputFormat()
    transmissionMode: Literal["value"] = "value"


class Execute(BaseModel):
    """What to segment, and how."""

    model_config = ConfigDict(extra="forbid")

    inputs: dict[str, Any] = Field(
        description='`image`: an image in base64, as `{"value": …, "mediaType": …}`; '
        "`filename`: its name in results; `format`: that of the result; and every parameter of "
        "`POST /segment`",
        examples=[{"image": {"value": "iVBORw0KGgo…", "mediaType": "image/png"}, "threshold": 0.5}],
    )
    outputs: dict[str, Output] = Field({}, examples=[{OUTPUT: {"format": {}}}])
    response: Literal["raw", "document"] = "raw"


def execute_schema() -> dict[str, Any]:
    """Return the schema of `Execute` without references, for a body that FastAPI does not read."""
    schema = Execute.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(part: object) -> Any:  # noqa: ANN401
        if isinstance(part, dict):
            if "$ref" in part:
                return inlined(parts[part["$ref"].rpartition("/")[2]])
            return {key: inlined(value) for key, value in part.items()}
        return [inlined(item) for item in part] if isinstance(part, list) else part

    whole: dict[str, Any] = inlined(schema)
    return whole


def _later(description: str) -> Any:  # noqa: ANN401
    """Describe a field that a job has only from some point of its progress on."""
    return Field(None, exclude_if=_is_none, description=description)


Moment = Annotated[datetime, BeforeValidator(lambda seconds: round(seconds, 3))]
"""A moment in UTC, of the seconds since 1970, to the millisecond."""


class ImageInfo(BaseModel):
    """The upload of a job."""

    filename: str = Field(description="as the client sent it", examples=["tile.tif"])
    width: int = Field(description="pixels of a row", examples=[2048])
    height: int = Field(description="number of rows", examples=[2048])
    gsd: float | None = Field(description="metres per pixel, where the file says", examples=[0.3])
    crs: str | None = Field(
        description="coordinate reference system, where the file names one", examples=["EPSG:32615"]
    )
    corners: list[tuple[float, float]] | None = Field(
        description="longitude and latitude of the top left, top right, bottom right and bottom "
        "left corner; null where its place is not known",
        examples=[[(-94.5, 37.1), (-94.4, 37.1), (-94.4, 37.0), (-94.5, 37.0)]],
    )
    formats: dict[str, str | None] = Field(
        description="each format of results, with null, or with why it is not possible",
        examples=[{"png": None, "geotiff": "The image has no georeference."}],
    )


class StatusInfo(BaseModel):
    """The state of a job. The fields after `links` are additions to the standard."""

    processID: str = Field(PROCESS, examples=[PROCESS])
    type: Literal["process"] = "process"
    jobID: str = Field(examples=[EXAMPLE_ID])
    status: Status = Field(description="state of the job", examples=["running"])
    message: str = Field(
        description="the state in a sentence", examples=["The image is being segmented."]
    )
    created: Moment = Field(description="when the client created it")
    started: Moment | None = _later("when the work began")
    finished: Moment | None = _later("when the work ended")
    updated: Moment = Field(description="when the job changed last")
    progress: int = Field(ge=0, le=100, description="per cent", examples=[42])
    links: list[Link]
    image: ImageInfo
    model: str | None = _later("version of the bundle")
    building_count: int | None = _later("number of buildings, with the job's own parameters")
    building_fraction: float | None = _later("share of building among the valid pixels")
    building_area_m2: float | None = _later("area of the building pixels; null without a GSD")
    notices: list[str] | None = _later("what to know about the image")


class JobList(BaseModel):
    """Jobs of this client, the newest first."""

    jobs: list[StatusInfo]
    links: list[Link]


def status_info(job: Job, up: str) -> StatusInfo:
    """Describe a job; `up` is the relative path from the request's URL to the service's root."""
    self = f"{up}jobs/{job.id}"
    links = [
        Link(href=self, rel="self", type="application/json", title="This job"),
        Link(href=f"{self}/preview", rel="preview", type="image/png", title="The upload"),
    ]
    if job.status == "successful":
        links.append(Link(href=f"{self}/results", rel=f"{_REL}results", title="The results"))
    if job.status == "failed":
        links.append(Link(href=f"{self}/results", rel=f"{_REL}exceptions", title="Why it failed"))
    return StatusInfo(**{**vars(job), **(job.outcome or {})}, jobID=job.id, links=links)


def process_summary(up: str) -> ProcessSummary:
    """Describe the process in brief; `up` is as for `status_info`."""
    self = f"{up}processes/{PROCESS}"
    return ProcessSummary(
        id=PROCESS,
        version=__version__,
        title="Building masks from satellite and aerial imagery",
        description="Segments the buildings of one image. As a job it keeps the probabilities, so "
        "that results of any format and threshold come without another inference.",
        keywords=["buildings", "segmentation", "imagery"],
        jobControlOptions=["sync-execute", "async-execute", "dismiss"],
        outputTransmission=["value"],
        links=[
            Link(href=self, rel="self", type="application/json"),
            Link(href=f"{self}/execution", rel=f"{_REL}execute", title="Run it"),
            Link(href=f"{up}jobs", rel=f"{_REL}job-list", type="application/json"),
        ],
    )


def process_description(up: str) -> ProcessDescription:
    """Describe the process with its inputs and outputs."""
    return ProcessDescription(
        **process_summary(up).model_dump(), inputs=_inputs(), outputs=_outputs()
    )


def landing_page() -> LandingPage:
    """Return the links of the service's root."""
    json = "application/json"
    return LandingPage(
        title="Rooftrace",
        description="Building masks from satellite and aerial imagery",
        links=[
            Link(href="./", rel="self", type=json),
            Link(href="./", rel="alternate", type="text/html", title="The page for a person"),
            Link(
                href="openapi.json",
                rel="service-desc",
                type="application/vnd.oai.openapi+json;version=3.1",
            ),
            Link(href="docs", rel="service-doc", type="text/html"),
            Link(href="conformance", rel=f"{_REL}conformance", type=json),
            Link(href="processes", rel=f"{_REL}processes", type=json),
            Link(href="jobs", rel=f"{_REL}job-list", type=json),
        ],
    )


def _inputs() -> dict[str, Any]:
    image = {
        "title": "The image",
        "description": "a PNG, JPEG, TIFF or WebP file, in base64",
        "minOccurs": 1,
        "maxOccurs": 1,
        "schema": {
            "oneOf": [
                {"type": "string", "contentEncoding": "base64", "contentMediaType": media_type}
                for media_type in IMAGE_TYPES
            ]
        },
    }
    name = {"title": "filename", "minOccurs": 0, "schema": {"type": "string", "default": "body"}}
    formats = {
        "title": "format",
        "description": "format of the result",
        "minOccurs": 0,
        "schema": {"type": "string", "enum": list(FORMATS)},
    }
    options = {
        option: {
            "title": option,
            "description": described.get("description", ""),
            "minOccurs": 0,
            "schema": {k: v for k, v in described.items() if k not in ("title", "description")},
        }
        for option, described in Options.model_json_schema()["properties"].items()
    }
    return {"image": image, "filename": name, "format": formats, **options}


def _outputs() -> dict[str, Any]:
    media_types = dict.fromkeys(format.media_type for format in FORMATS.values())
    schemas = [
        {"type": "object", "contentMediaType": media_type}
        if "json" in media_type
        else {"type": "string", "contentEncoding": "binary", "contentMediaType": media_type}
        for media_type in media_types
    ]
    described = "; ".join(f"{name}: {format.description}" for name, format in FORMATS.items())
    return {
        OUTPUT: {"title": "The buildings", "description": described, "schema": {"oneOf": schemas}}
    }
