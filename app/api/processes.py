"""The process of OGC API - Processes: its description, and its execution now or as a job."""

import asyncio
import logging
import re
from typing import Annotated

from fastapi import Path, Query, Response

from .. import errors
from ..imaging.decode import decode_image
from ..jobs.records import Job
from ..jobs.results import describe
from ..jobs.runner import check_width
from ..outputs.formats import FORMATS
from ..segmentation.plan import Plan
from .answers import FAILURES, IMAGE_FAILURES, Call, Calling
from .execution import Execution, read_execution
from .headers import IMAGE_BODY, RESULT, header
from .ogc import (
    CONFORMS_TO,
    PROCESS,
    Conformance,
    Link,
    ProcessDescription,
    ProcessList,
    StatusInfo,
    execute_schema,
    process_description,
    process_summary,
    status_info,
)
from .parameters import SegmentParameters
from .problems import responses
from .service import RoomFirst, checked_router
from .uploads import unless_gone

logger = logging.getLogger(__name__)

router = checked_router("processes")
executions = checked_router("processes", RoomFirst)

_ASYNC = re.compile(r"(^|[\s,])respond-async([\s,;]|$)")
ProcessId = Annotated[str, Path(description="Id of the process.", examples=[PROCESS])]


@router.get(
    "/conformance",
    summary="The standards that the service follows",
    response_description="The conformance classes",
)
async def conformance() -> Conformance:
    """List the conformance classes of OGC API - Processes that the service implements."""
    return Conformance(conformsTo=CONFORMS_TO)


@router.get(
    "/processes",
    summary="The processes",
    response_description="The list of processes",
    responses=responses(errors.InvalidOption),
)
async def processes(
    limit: Annotated[
        int, Query(ge=1, description="Largest number of processes to list.", examples=[10])
    ] = 10,
) -> ProcessList:
    """List the processes: there is one. OGC API asks for `limit`."""
    del limit  # one process is never too many
    links = [Link(href="processes", rel="self", type="application/json")]
    return ProcessList(processes=[process_summary("")], links=links)


@router.get(
    "/processes/{processID}",
    summary="A process",
    response_description="The process, with its inputs and outputs",
    responses=responses(errors.NoSuchProcess, errors.InvalidOption),
)
async def process(processID: ProcessId) -> ProcessDescription:
    """Describe a process with its inputs and outputs."""
    _check_process(processID)
    return process_description("../")


@executions.post(
    "/processes/{processID}/execution",
    summary="Segment an image, now or as a job",
    response_class=Response,
    responses={
        200: {**RESULT, "description": "The result, without `Prefer: respond-async`"},
        201: {
            "description": "The job, with `Prefer: respond-async`",
            "model": StatusInfo,
            "headers": {
                "Location": header("relative reference to the job", "../../jobs/2f5e8d3c"),
                "Preference-Applied": header("the preference that was followed", "respond-async"),
            },
        },
        **responses(
            *FAILURES,
            *IMAGE_FAILURES,
            errors.InvalidInputs,
            errors.NoSuchProcess,
            errors.JobsAway,
            errors.StorageFull,
        ),
    },
    openapi_extra={
        "parameters": [
            {
                "name": "Prefer",
                "in": "header",
                "description": "`respond-async`: create a job. Source: RFC 7240.",
                "schema": {"type": "string", "examples": ["respond-async"]},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": execute_schema()}, **IMAGE_BODY},
        },
    },
)
async def execute(
    call: Calling, processID: ProcessId, parameters: Annotated[SegmentParameters, Query()]
) -> Response:
    """Segment an image: with `Prefer: respond-async` as a job, else at once.

    The body is that of the standard in JSON, or one that `POST /segment` takes, with its query
    parameters. JSON that can't be read as an execution is a 400. An option that is unknown or out
    of range is a 422, in JSON as in the query.
    """
    _check_process(processID)
    async with call.admit() as place:
        asked = await read_execution(call.request, parameters, call.service.settings, place)
        Plan.check(call.segmenter.manifest, asked.work.options)
        if _ASYNC.search(", ".join(call.request.headers.getlist("prefer")).lower()):
            return await _create(call, asked)
        return await call.segment(asked.work, asked.upload)


async def _create(call: Call, asked: Execution) -> Response:
    """Decode the image, so that a bad one is refused at once, and create its job."""
    service, options, upload = call.service, asked.work.options, asked.upload

    def look(max_pixels: int) -> tuple[Job, int]:
        with call.stages.measure("decode"):
            image = decode_image(upload.data, max_pixels=max_pixels, **options.decoding)
            if asked.named:
                FORMATS[asked.named].check(image)
            plan = call.segmenter.plan(image, options, buildings=True)
            check_width(plan, service.jobs.memory)
        job = Job(
            owner=call.request.state.owner,
            filename=upload.filename,
            options=options.model_dump(exclude_unset=True),
            image=describe(image, upload.filename, upload.data),
            bytes=0,
            format=asked.named,
            document=asked.work.document,
        )
        return job, image.height * image.width

    async def keep() -> Job:
        job, pixels = await call.run(upload.content, look, "accepted")
        # Not in a thread of the requests, which must not wait for a store that does not answer.
        return await asyncio.to_thread(service.jobs.add, job, upload.data, pixels)

    job = await unless_gone(call.request, keep())
    logger.info("request %s created job %s", call.request.state.request_id, job.id)
    headers = {"Location": f"../../jobs/{job.id}", "Preference-Applied": "respond-async"}
    body = status_info(job, "../../").model_dump_json()
    return Response(body, 201, headers=headers, media_type="application/json")


def _check_process(id: str) -> None:
    if id != PROCESS:
        raise errors.NoSuchProcess(f"There is no process {id[:64]!r}. There is {PROCESS}.")
