"""The two endpoints that segment."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ..errors import NotReady
from ..outputs.rle import RleResult
from ..segmentation.plan import Plan
from .answers import FAILURES, IMAGE_FAILURES, Calling, accepted
from .headers import BINARY, IMAGE_BODY, RESULT, add_notices, form
from .parameters import (
    BATCH_TYPES,
    RESULT_TYPES,
    BatchParameters,
    SegmentParameters,
    choose_formats,
)
from .problems import problem_of, responses
from .schemas import BatchResult, FileProblem
from .service import RoomFirst, checked_router
from .stages import Stages
from .submission import image_ids, submission
from .uploads import Upload, read_upload, read_uploads, unless_gone
from .work import Work

router = checked_router("segmentation", RoomFirst)


@router.post(
    "/segment",
    summary="Segment one image",
    response_class=Response,
    responses={200: RESULT, **responses(*FAILURES, *IMAGE_FAILURES)},
    openapi_extra={"requestBody": {"required": True, "content": IMAGE_BODY}},
)
async def segment(call: Calling, parameters: Annotated[SegmentParameters, Query()]) -> Response:
    """Return the building mask of an uploaded image, in its own width and height."""
    formats = choose_formats(parameters.format, accepted(call.request), RESULT_TYPES)
    Plan.check(call.segmenter.manifest, parameters)
    async with call.admit() as place:
        upload = await read_upload(call.request, call.service.settings, place)
        return await call.segment(Work(parameters, formats), upload)


@router.post(
    "/segment/rle",
    summary="Segment many images",
    response_class=Response,
    responses={
        200: {
            "model": BatchResult,
            "description": "One result per file, in upload order (`ndjson`: as they are ready)",
            "content": {
                "text/csv": {  # first, for generated clients: all three are text
                    "schema": {"type": "string"},
                    "example": "img_id,mask_rle\ntile_0001,1026 12 1250 14\ntile_0002,-1\n",
                },
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        **responses(*FAILURES),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": form("files", {"type": "array", "items": BINARY})},
        }
    },
)
async def segment_batch(call: Calling, parameters: Annotated[BatchParameters, Query()]) -> Response:
    """Return a run-length encoding for each uploaded image; a bad file does not lose the others."""
    request, service = call.request, call.service
    format, *_ = choose_formats(parameters.format, accepted(request), BATCH_TYPES)
    segmenter, work = call.segmenter, Work(parameters.options(), ["rle"])
    Plan.check(segmenter.manifest, work.options)
    version, totals = segmenter.manifest.version, call.stages.seconds

    # A batch has as many images at work as there are threads, or its share of the replicas, so that
    # the requests of others come in between.
    share = service.admission.concurrency // (service.admission.inside + 1)
    turns = asyncio.Semaphore(max(service.concurrency, share))

    async def one(upload: Upload) -> RleResult | FileProblem:
        stages = Stages()
        try:
            async with turns:
                running = service.engine.segment(segmenter, work, upload, stages, call.deadline)
                answer = await service.recorded(running, stages)
            if answer.version != version:  # replicas on Ray may get another bundle meanwhile
                raise NotReady("The models changed in the middle of the batch. Send it again.")
            result = await asyncio.to_thread(RleResult.model_validate_json, answer.body)
        except Exception as error:  # not even a fault of ours loses the other files
            problem = problem_of(error, request.state.request_id)
            return FileProblem(filename=upload.filename, error=problem)
        finally:
            for stage, seconds in stages.seconds.items():
                totals[stage] = totals.get(stage, 0.0) + seconds
        service.metrics.pixels.inc(answer.pixels)
        return result

    headers = {"X-Model-Version": version}
    async with AsyncExitStack() as admitted:
        place = await admitted.enter_async_context(call.admit())
        uploads = await read_uploads(request, service.settings, place)
        ids = image_ids([upload.filename for upload in uploads]) if format == "csv" else []
        running = map(one, uploads)
        if format == "ndjson":
            return _AdmittedStream(admitted.pop_all(), _lines(running), headers)
        results = await unless_gone(request, asyncio.gather(*running))
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
    """A stream of JSON lines whose request stays admitted until the stream ends."""

    def __init__(
        self, admitted: AsyncExitStack, lines: AsyncIterator[str], headers: dict[str, str]
    ) -> None:
        # nginx would else hold lines back until they fill a buffer.
        headers = {**headers, "X-Accel-Buffering": "no"}
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
        for task in tasks:  # the client may have left
            task.cancel()
