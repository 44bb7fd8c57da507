"""Read the body of an execution: the standard's JSON, or an image as `POST /segment` takes it."""

import asyncio
import base64
import binascii
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError

from ..documents import read_json
from ..errors import InvalidInputs, InvalidOption, NotAcceptable, brief, refusal
from ..outputs.choices import FormatName
from ..segmentation.options import Options
from ..settings import Settings
from .admission import Place
from .answers import accepted
from .engine import OUTPUT
from .ogc import Execute
from .parameters import JOB_TYPES, RESULT_TYPES, SegmentParameters, choose_formats
from .uploads import Upload, content_type, read_body, read_upload
from .work import Work


@dataclass(frozen=True)
class Execution:
    """An image, and what the client asks of it."""

    upload: Upload
    work: Work
    named: str | None
    """The format that the client named; None if it leaves the choice to later requests."""


async def read_execution(
    request: Request, parameters: SegmentParameters, settings: Settings, place: Place
) -> Execution:
    """Read the body of an execution, of either kind.

    Raises:
        InvalidInputs: JSON that can't be read as an execution.
        InvalidOption: an input that is unknown or out of range, as a query parameter is refused.
        As `read_upload`.
    """
    if content_type(request) != "application/json":
        upload = await read_upload(request, settings, place)
        names = choose_formats(parameters.format, accepted(request), RESULT_TYPES)
        options = Options(**parameters.model_dump(exclude={"format"}, exclude_unset=True))
        return Execution(upload, Work(options, names), parameters.format)
    if request.query_params:
        raise InvalidInputs(
            f"The query has {', '.join(request.query_params)}. With a JSON body, parameters are "
            'inputs: {"inputs": {"image": …, "threshold": 0.5}}.'
        )
    body = await read_body(request, settings, place)
    return await asyncio.to_thread(_execution, body, accepted(request))


class _Inputs(Options):
    """The inputs beside the image."""

    format: FormatName | None = None
    filename: str = "body"


def _execution(body: bytes, accept: str) -> Execution:
    try:
        asked = Execute.model_validate(read_json(body))
    except ValueError as error:
        raise InvalidInputs(_why(error)) from None
    if unknown := set(asked.outputs) - {OUTPUT}:
        names = ", ".join(repr(name[:40]) for name in sorted(unknown))
        raise InvalidInputs(f"outputs: there is no {names}; the one output is {OUTPUT}.")
    image = _image(asked.inputs.pop("image", None))
    inputs = _Inputs.parse(asked.inputs)
    named = inputs.format or _format(asked)
    options = Options(**inputs.model_dump(exclude={"format", "filename"}, exclude_unset=True))
    document = asked.response == "document"  # then `Accept` is about the document
    formats = choose_formats(named, "" if document else accept, RESULT_TYPES)
    safe = inputs.filename.encode(errors="replace").decode()
    return Execution(Upload(safe, image), Work(options, formats, document), named)


def _format(asked: Execute) -> str | None:
    """Return the format that the client names by a media type."""
    media_type = asked.outputs[OUTPUT].format.mediaType if OUTPUT in asked.outputs else None
    if media_type is None:
        return None
    try:
        return choose_formats(None, media_type, JOB_TYPES)[0]
    except NotAcceptable:
        offered = ", ".join(dict.fromkeys(JOB_TYPES.values()))
        raise InvalidOption(
            f"outputs.{OUTPUT}.format.mediaType must be among {offered}, got {brief(media_type)}."
        ) from None


def _image(given: object) -> bytes:
    hint = 'Send {"value": "<base64>", "mediaType": "image/tiff"}.'
    if given is None:
        raise InvalidInputs(f"inputs.image is missing. {hint}")
    if isinstance(given, dict) and "href" in given:
        raise InvalidInputs(f"inputs.image is a link, and this service opens none. {hint}")
    text = given.get("value") if isinstance(given, dict) else given
    if not isinstance(text, str):
        raise InvalidInputs(f"inputs.image holds no text. {hint}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputs(f"inputs.image is not base64. {hint}") from None


def _why(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return f"The body is not JSON that can be read: {error}."
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "The body"
    return f"{refusal(name, first)}. /docs shows what an execution holds."
