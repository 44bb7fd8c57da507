"""The two endpoints that segment."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from .. import errors
from ..outputs.formats import FORMATS, Format
from ..outputs.mask_rle import RleResult, rle_result
from ..segmentation.options import Options
from ..segmentation.plan import Plan
from ..segmentation.stream import SegmentedStream
from .admission import Deadline
from .headers import RESULT_HEADERS, add_notices, figures
from .parameters import (
    ANY_BYTES,
    BATCH_TYPES,
    RESULT_TYPES,
    BatchParameters,
    SegmentParameters,
    choose_formats,
)
from .problems import problem_of, responses
from .schemas import BatchResult, FileProblem
from .service import CHECKED, OPTIONAL_KEY, RoomFirst, Running, Service, execution_providers
from .stages import Stages
from .submission import image_ids, submission
from .uploads import (
    IMAGE_TYPES,
    Upload,
    announced_length,
    read_upload,
    read_uploads,
    unless_gone,
)
from .work import Work, working_memory

T = TypeVar("T")

router = APIRouter(tags=["segmentation"], dependencies=[CHECKED], route_class=RoomFirst)

_OBJECT = {"type": "object", "additionalProperties": True}
_BINARY = {"type": "string", "format": "binary"}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


_FAILURES = (
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
_IMAGE_FAILURES = (
    errors.EmptyUpload,
    errors.DamagedImage,
    errors.UnsupportedImage,
    errors.ImpossibleOutput,
)


@router.post(
    "/segment",
    summary="Segment one image",
    response_class=Response,
    responses={
        200: {
            "description": "The result, in the chosen format",
            "headers": RESULT_HEADERS,
            "content": {
                # First, as generated clients parse every answer as the first type that they know.
                ANY_BYTES: {"schema": _BINARY},
                **{media_type: {"schema": _BINARY} for media_type in RESULT_TYPES.values()},
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
        },
        **responses(*_FAILURES, *_IMAGE_FAILURES),
    },
    openapi_extra={
        **OPTIONAL_KEY,
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": _form("file", _BINARY),
                **{media_type: {"schema": _BINARY} for media_type in IMAGE_TYPES},
            },
        },
    },
)
async def segment(
    request: Request, parameters: Annotated[SegmentParameters, Query()], service: Running
) -> Response:
    """Return the building mask of an uploaded image, in its own width and height."""
    _refuse_repeated(request)
    names = choose_formats(parameters.format, _accept(request), RESULT_TYPES)
    deadline = Deadline(service.settings.deadline)
    formats = tuple(FORMATS[name] for name in names)
    work = _work(parameters, formats, service, deadline)
    length = announced_length(request, service.settings)
    async with service.admission.admit(length) as place:
        upload = await read_upload(request, service.settings, place)
        stages = Stages()
        request.state.stages = stages.seconds

        def segmented() -> tuple[Format, bytes, SegmentedStream]:
            format, stream = work.begin(upload.filename, upload.data, stages)
            with stages.measure("encode"):
                return format, format.encode(stream), stream

        running = _run(service, upload, segmented, stages, deadline)
        format, body, stream = await unless_gone(request, running)
    service.metrics.pixels.inc(math.prod(stream.plan.size))
    headers = {
        "Server-Timing": ", ".join(f"{s};dur={1000 * t:.1f}" for s, t in stages.seconds.items()),
        "X-Model-Version": stream.plan.model,
        "X-Execution-Provider": ", ".join(execution_providers(work.segmenter)),
        **figures(stream),
    }
    response = Response(body, media_type=format.media_type, headers=headers)
    add_notices(response, stream.plan.notices)
    return response


@router.post(
    "/segment/rle",
    summary="Segment many images",
    response_class=Response,
    responses={
        200: {
            "model": BatchResult,
            "description": "One result per file, in upload order (`ndjson`: as they are ready)",
            "content": {
                "text/csv": {  # first, as above: all three are text
                    "schema": {"type": "string"},
                    "example": "img_id,mask_rle\ntile_0001,1026 12 1250 14\ntile_0002,-1\n",
                },
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        **responses(*_FAILURES),
    },
    openapi_extra={
        **OPTIONAL_KEY,
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("files", {"type": "array", "items": _BINARY})},
        },
    },
)
async def segment_batch(
    request: Request, parameters: Annotated[BatchParameters, Query()], service: Running
) -> Response:
    """Return a run-length encoding for each uploaded image; a bad file never loses the others."""
    _refuse_repeated(request)
    format, *_ = choose_formats(parameters.format, _accept(request), BATCH_TYPES)
    deadline = Deadline(service.settings.deadline)
    work = _work(parameters.options(), (FORMATS["rle"],), service, deadline)
    request_id: str = request.state.request_id
    totals: dict[str, float] = {}
    request.state.stages = totals

    turns = asyncio.Semaphore(service.concurrency)  # others' requests come in between

    async def one(upload: Upload) -> RleResult | FileProblem:
        stages = Stages()

        def segmented() -> RleResult:
            _, stream = work.begin(upload.filename, upload.data, stages)
            with stages.measure("encode"):
                return rle_result(stream)

        try:
            async with turns:
                result = await _run(service, upload, segmented, stages, deadline)
        except Exception as error:  # not even a fault of ours loses the other files
            problem = problem_of(error, request_id)
            return FileProblem(filename=upload.filename, error=problem)
        finally:
            for stage, seconds in stages.seconds.items():
                totals[stage] = totals.get(stage, 0.0) + seconds
        service.metrics.pixels.inc(result.width * result.height)
        return result

    version = work.segmenter.manifest.version
    headers = {"X-Model-Version": version}
    length = announced_length(request, service.settings)
    async with AsyncExitStack() as admitted:
        place = await admitted.enter_async_context(service.admission.admit(length))
        uploads = await read_uploads(request, service.settings, place)
        ids = image_ids([upload.filename for upload in uploads]) if format == "csv" else []
        running = map(one, uploads)
        if format == "ndjson":
            return _AdmittedStream(admitted.pop_all(), _lines(running), headers)
        results = await unless_gone(request, _all(running))
    if format == "csv":
        response = Response(
            submission(ids, results), media_type=BATCH_TYPES["csv"], headers=headers
        )
        left_out = [result for result in results if isinstance(result, FileProblem)]
        add_notices(response, [f"{p.filename!r} left out: {p.error.detail}" for p in left_out])
        return response
    batch = BatchResult(model=version, results=results)
    return Response(batch.model_dump_json(), media_type="application/json", headers=headers)


class _AdmittedStream(StreamingResponse):
    """Lines of JSON whose request stays admitted until the last is sent, or nobody reads on."""

    def __init__(
        self, admitted: AsyncExitStack, lines: AsyncIterator[str], headers: dict[str, str]
    ) -> None:
        super().__init__(lines, media_type=BATCH_TYPES["ndjson"], headers=headers)
        self._admitted = admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._admitted:
            await super().__call__(scope, receive, send)


async def _lines(work: Iterable[Coroutine[None, None, BaseModel]]) -> AsyncIterator[str]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        for finished in asyncio.as_completed(tasks):
            yield (await finished).model_dump_json() + "\n"
    finally:
        for task in tasks:  # nobody reads on
            task.cancel()


async def _all(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    return await asyncio.gather(*work)


async def _run(
    service: Service, upload: Upload, work: Callable[[], T], stages: Stages, deadline: Deadline
) -> T:
    """Run one image's work in its turn, and record how long each stage took and how it ended."""
    submitted = perf_counter()

    def timed() -> T:
        size = working_memory(upload.data, service.settings.max_pixels)
        with service.admission.memory.for_image(size, deadline):
            stages.add_since("queue", submitted)
            return work()

    outcome = "unfinished"
    try:
        finished = await service.admission.run(timed, deadline)
        outcome = "segmented"
        return finished
    except errors.RooftraceError as error:
        outcome = type(error).__name__
        raise
    finally:
        service.metrics.images.labels(outcome).inc()
        for stage, seconds in dict(stages.seconds).items():
            service.metrics.stage_duration.labels(stage).observe(seconds)
        service.traces.add(stages)


def _work(
    options: Options, formats: tuple[Format, ...], service: Service, deadline: Deadline
) -> Work:
    """Settle what can be settled before the body is read.

    Raises:
        InvalidOption: options that this bundle can't honour.
    """
    segmenter = service.segmenter
    Plan.check(segmenter.manifest, options)
    return Work(segmenter, options, formats, service.settings.max_pixels, deadline.check)


def _accept(request: Request) -> str:
    return ", ".join(request.headers.getlist("accept"))


def _refuse_repeated(request: Request) -> None:
    """Refuse a parameter that came twice, of which one would silently win."""
    names = [name for name, _ in request.query_params.multi_items()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise errors.InvalidOption(f"{', '.join(repeated)} came more than once. Send it once.")
