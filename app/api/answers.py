"""One image's work, from its turn in the queue to the answer of its request."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request, Response

from .. import errors
from ..outputs.formats import Format
from ..segmentation.options import Options
from ..segmentation.plan import Plan
from ..segmentation.stream import SegmentedStream
from .access import KEY_FAILURES
from .admission import Deadline
from .engine import Answer, encode, in_turn
from .headers import add_notices
from .service import Service
from .stages import Stages
from .uploads import Upload, unless_gone
from .work import Work

T = TypeVar("T")

FAILURES = (
    *KEY_FAILURES,
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


async def segment_one(
    request: Request, service: Service, work: Work, upload: Upload, deadline: Deadline
) -> Response:
    """Have the engine segment an upload, and answer with the result.

    Raises:
        ClientGone: nobody waits for it any more.
        Exception: as `Engine.segment`.
    """
    stages = Stages()
    return await _answer(
        request, service, stages, service.engine.segment(work, upload, stages, deadline)
    )


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
    """Read a stream whose bands are known, when the turn of its image in `data` comes.

    `document`: put the result into a JSON document, as a process does.

    Raises:
        DeadlineExceeded: it was not there in time.
        ClientGone: nobody waits for it any more.
        Exception: whatever `begin` or reading its stream raises.
    """
    stages = Stages()

    def written() -> Answer:
        format, stream = begin(stages)
        return encode(format, stream, providers, stages, document=document)

    max_pixels = service.settings.max_pixels
    running = in_turn(service.admission, data, max_pixels, written, stages, deadline)
    return await _answer(request, service, stages, running)


async def _answer(
    request: Request, service: Service, stages: Stages, running: Coroutine[Any, Any, Answer]
) -> Response:
    request.state.stages = stages.seconds
    answer = await unless_gone(request, recorded(service, running, stages))
    service.metrics.pixels.inc(answer.pixels)
    headers = {
        "Server-Timing": ", ".join(f"{s};dur={1000 * t:.1f}" for s, t in stages.seconds.items()),
        "X-Model-Version": answer.version,
        "X-Execution-Provider": ", ".join(answer.providers),
        **answer.figures,
    }
    response = Response(answer.body, media_type=answer.media_type, headers=headers)
    add_notices(response, answer.notices)
    return response


async def run_image(
    service: Service,
    data: bytes,
    work: Callable[[], T],
    stages: Stages,
    deadline: Deadline,
    *,
    outcome: str = "segmented",
) -> T:
    """Run other work of one image in a thread of this process, in its turn, and record it."""
    max_pixels = service.settings.max_pixels
    running = in_turn(service.admission, data, max_pixels, work, stages, deadline)
    return await recorded(service, running, stages, outcome)


async def recorded(
    service: Service, running: Coroutine[Any, Any, T], stages: Stages, outcome: str = "segmented"
) -> T:
    """Await one image's work, and record how long each stage took and how it ended."""
    ended = "unfinished"
    try:
        finished = await running
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
