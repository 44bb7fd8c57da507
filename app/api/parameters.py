"""Query parameters, and how a result format is chosen. An unknown name or value is a 422."""

from collections.abc import Mapping
from typing import Literal

from fastapi import Request
from pydantic import Field

from ..errors import InvalidOption, NotAcceptable
from ..outputs.choices import FormatName, StreamFormatName
from ..outputs.formats import FORMATS
from ..segmentation.options import BatchOptions, Options, ResultOptions

BatchFormatName = Literal["json", "ndjson", "csv"]

JOB_TYPES = {name: format.media_type for name, format in FORMATS.items()}
RESULT_TYPES = {name: JOB_TYPES[name] for name, format in FORMATS.items() if format.write}
BATCH_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
"""Media types by format. Where `Accept` prefers several equally, the first is chosen."""

ANY_BYTES = "application/octet-stream"
"""A media type that takes every format, for clients that can't name theirs."""


class SegmentParameters(Options):
    """Query parameters of `POST /segment`."""

    format: StreamFormatName | None = Field(
        None,
        description="The result: "
        + "; ".join(f"`{name}`: {FORMATS[name].description}" for name in RESULT_TYPES)
        + ". Default: of what `Accept` allows, the most preferred that the upload can have; "
        "else `png`.",
        examples=["overlay"],
    )


class ResultParameters(ResultOptions):
    """Query parameters of the results of a job: those that act on finished probabilities."""

    format: FormatName | None = Field(
        None,
        description="The result: "
        + "; ".join(f"`{name}`: {format.description}" for name, format in FORMATS.items())
        + ". Default: what the job was created with, else what `Accept` prefers, else `png`.",
        examples=["geojson"],
    )


class BatchParameters(BatchOptions):
    """Query parameters of `POST /segment/rle`."""

    format: BatchFormatName | None = Field(
        None,
        description="`json`: one object; `ndjson`: a line for each file as soon as it is "
        "ready; `csv`: `img_id,mask_rle`, `-1` for an empty mask. Default: what `Accept` asks "
        "for, else `json`.",
        examples=["csv"],
    )

    def options(self) -> Options:
        """Return the options, with the defaults of those that a batch does not take."""
        return Options(**self.model_dump(exclude={"format"}))


def choose_formats(name: str | None, accept: str, media_types: Mapping[str, str]) -> list[str]:
    """Return the format that was named, else those that `Accept` allows, the preferred one first.

    Where it prefers several equally, they are in the order of `media_types`.
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
            f"Accept: {accept[:200]!r} allows none of {offered}. Accept one of these."
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
        family = f"{media_type.split('/')[0]}/*"
        specificity = {"*/*": 0, ANY_BYTES: 0, family: 1, media_type: 2}.get(media_range)
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


def refuse_repeated(request: Request) -> None:
    """Refuse a parameter that came twice, as FastAPI would use the last and say nothing.

    Raises:
        InvalidOption: a parameter came more than once.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidOption(f"{', '.join(repeated)} came more than once. Send it once.")
