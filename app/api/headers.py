"""OpenAPI objects of results and their headers, and the headers' values."""

from collections.abc import Sequence
from typing import Any

from fastapi import Response

from ..segmentation.stream import SegmentedStream
from .parameters import ANY_BYTES, RESULT_TYPES
from .schemas import EXAMPLE_ID, EXAMPLE_VERSION
from .uploads import IMAGE_TYPES

_MAX_NOTICES, _MAX_NOTICE = 16, 300


def header(description: str, example: str | float, type: str = "string") -> dict[str, Any]:
    """Describe a header as an OpenAPI object."""
    return {"description": description, "schema": {"type": type, "examples": [example]}}


RESULT_HEADERS = {
    "Server-Timing": header(
        "milliseconds of each stage",
        "queue;dur=0.2, decode;dur=3.8, infer;dur=1675.0, encode;dur=6.7",
    ),
    "X-Request-Id": header(
        "the client's own, of 8 to 64 letters, digits and hyphens, else a new one",
        EXAMPLE_ID,
    ),
    "X-Model-Version": header("version of the bundle", EXAMPLE_VERSION),
    "X-Execution-Provider": header("runtime and precision", "OpenVINO CPU int8"),
    "X-Building-Fraction": header("share of building among the valid pixels", 0.123456, "number"),
    "X-Building-Count": header(
        "number of buildings; pixels that share a side are one building", 17, "integer"
    ),
    "X-Building-Area-M2": header(
        "area of the building pixels, where the GSD is known", 2318.4, "number"
    ),
    "X-Cascade": header(
        "how many patches each stage of the cascade decided; absent where the cascade was off",
        "unet_lite decided 27 of 49 patches alone, 12 with unet_lite1",
    ),
    "X-Notice": header(
        "something to know about the image; may come more than once",
        "The image is greyscale: its band was used as red, green and blue.",
    ),
}
"""Headers of a segmented image, as OpenAPI objects."""


BINARY = {"type": "string", "format": "binary"}
_OBJECT = {"type": "object", "additionalProperties": True}


def form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a multipart form with one field as an OpenAPI object."""
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


RESULT: dict[str, Any] = {
    "description": "The result, in the chosen format",
    "content": {
        # First: generated clients parse every answer as the first media type that they know.
        ANY_BYTES: {"schema": BINARY},
        **{media_type: {"schema": BINARY} for media_type in RESULT_TYPES.values()},
        "application/json": {
            "schema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/RleResult"},
                    {**_OBJECT, "description": "a COCO data set of one image"},
                ]
            }
        },
        "application/geo+json": {"schema": _OBJECT},
    },
    "headers": RESULT_HEADERS,
}
"""The answer that is a segmented image, as an OpenAPI object."""
IMAGE_BODY: dict[str, Any] = {
    "multipart/form-data": form("file", BINARY),
    **{media_type: {"schema": BINARY} for media_type in IMAGE_TYPES},
}
"""Bodies that are one image, as OpenAPI objects."""


def result_headers(stream: SegmentedStream, providers: Sequence[str]) -> dict[str, str]:
    """Return the headers of a result: its model and providers, and what was counted.

    The stream must have been read to its end.
    """
    area, count = stream.building_area, stream.cascade_count
    return {
        "X-Model-Version": stream.plan.model,
        "X-Execution-Provider": ", ".join(providers),
        "X-Building-Fraction": f"{stream.building_fraction:.6f}",
        "X-Building-Count": str(stream.building_count),
        **({} if area is None else {"X-Building-Area-M2": f"{area:.2f}"}),
        **({} if count is None else {"X-Cascade": str(count)}),
    }


def add_notices(response: Response, notices: Sequence[str]) -> None:
    """Add an `X-Notice` header for each notice, at most 16 of at most 300 characters each."""
    if len(notices) > _MAX_NOTICES:
        notices = [*notices[: _MAX_NOTICES - 1], f"and {len(notices) - _MAX_NOTICES + 1} more"]
    for notice in notices:
        # A header holds Latin-1 at best, and a notice may quote a file's name in any script.
        text = notice.encode("unicode_escape").decode()
        brief = text if len(text) <= _MAX_NOTICE else f"{text[: _MAX_NOTICE - 3]}..."
        response.headers.append("X-Notice", brief)
