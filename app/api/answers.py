"""One image's work, from its turn in the queue to the answer of its request."""

import base64
import json
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeVar

from fastapi import Request, Response

from .. import errors
from ..outputs.formats import Format
from ..segmentation.options import Options
from ..segmentation.plan import Plan
from ..segmentation.stream import SegmentedStream
from .admission import Deadline
from .headers import add_notices, figures
from .service import Service
from .stages import Stages
from .uploads import unless_gone
from .work import Work, working_memory

T = TypeVar("T")

OUTPUT = "result"
"""Name of the one output of the process."""

FAILURES = (
    errors.KeyMissing,
    errors.KeyRefused,
    errors.RateExceeded,
    errors.MalformedUpload,
    errors.NotAcceptable,
    errors.UploadTimeout,
    errors.UploadTooLarge,
    errors.UnsupportedFormat,
    errors.InvalidOption,
    errors.InferenceError,
    errors.QueueFull,
    errors.DeadlineExceeded,
)
"""Problems of every request that segments."""
IMAGE_FAILURES = (
    errors.EmptyUpload,
    errors.DamagedImage,
    errors.UnsupportedImage,
    errors.ImpossibleOutput,
)
"""Problems of a single image."""


async def answer(
    request: Request,
    service: Service,
    data: bytes,
    begin: Callable[[Stages], tuple[Format, SegmentedStream]],
    deadline: Deadline,
    providers: Sequence[str],
    *,
    document: bool = False,
) -> Response:
    """Segment the image in `data` when its turn comes, and answer with the result.

    `document`: put the result into a JSON document, as a process does.

    Raises:
        DeadlineExceeded: it was not there in time.
        ClientGone: nobody waits for it any more.
        Exception: whatever `begin` or reading its stream raises.
    """
    stages = Stages()
    request.state.stages = stages.seconds

    def segmented() -> tuple[Format, bytes, SegmentedStream]:
        format, stream = begin(stages)
        with stages.measure("encode"):
            body = format.encode(stream)
            return format, documented(format, body) if document else body, stream

    running = run_image(service, data, segmented, stages, deadline)
    format, body, stream = await unless_gone(request, running)
    service.metrics.pixels.inc(math.prod(stream.plan.size))
    headers = {
        "Server-Timing": ", ".join(f"{s};dur={1000 * t:.1f}" for s, t in stages.seconds.items()),
        "X-Model-Version": stream.plan.model,
        "X-Execution-Provider": ", ".join(providers),
        **figures(stream),
    }
    media_type = "application/json" if document else format.media_type
    response = Response(body, media_type=media_type, headers=headers)
    add_notices(response, stream.plan.notices)
    return response


def documented(format: Format, body: bytes) -> bytes:
    """Put a result into the document of results: JSON as it is, anything else in base64.

    Source: OGC 18-062r2, section 7.13.2.
    """
    described: dict[str, object] = {"mediaType": format.media_type}
    if "json" in format.media_type:
        described["value"] = json.loads(body)
    else:
        described |= {"value": base64.b64encode(body).decode(), "encoding": "base64"}
    return json.dumps({OUTPUT: described}).encode()


async def run_image(
    service: Service,
    data: bytes,
    work: Callable[[], T],
    stages: Stages,
    deadline: Deadline,
    *,
    outcome: str = "segmented",
) -> T:
    """Run one image's work in its turn, and record how long each stage took and how it ended."""
    submitted = perf_counter()

    def timed() -> T:
        size = working_memory(data, service.settings.max_pixels)
        with service.admission.memory.for_image(size, deadline):
            stages.add_since("queue", submitted)
            return work()

    ended = "unfinished"
    try:
        finished = await service.admission.run(timed, deadline)
        ended = outcome
        return finished
    except errors.RooftraceError as error:
        ended = type(error).__name__
        raise
    finally:
        service.metrics.images.labels(ended).inc()
        for stage, seconds in dict(stages.seconds).items():
            service.metrics.stage_duration.labels(stage).observe(seconds)
        service.traces.add(stages)


def settle(
    options: Options, formats: tuple[Format, ...], service: Service, deadline: Deadline
) -> Work:
    """Settle what can be settled before the body is read.

    Raises:
        InvalidOption: options that this bundle can't honour.
    """
    segmenter = service.segmenter
    Plan.check(segmenter.manifest, options)
    return Work(segmenter, options, formats, service.settings.max_pixels, deadline.check)


def accepted(request: Request) -> str:
    """Return what the client accepts, of all its headers that say so."""
    return ", ".join(request.headers.getlist("accept"))


def refuse_repeated(request: Request) -> None:
    """Refuse a parameter that came twice, of which one would silently win."""
    names = [name for name, _ in request.query_params.multi_items()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise errors.InvalidOption(f"{', '.join(repeated)} came more than once. Send it once.")
